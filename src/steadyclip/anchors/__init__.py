"""Anchors: rich text given back to a fine-tuning, as captions of its images and as pairs retrieved from a pool.

Names are imported when they are first used: reading a file of captions needs no captioner, and no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
