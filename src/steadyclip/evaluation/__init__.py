"""Scoring a model: heads from names, image features, metrics, and one JSON record per evaluation.

Names are imported when they are first used: reading records needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
