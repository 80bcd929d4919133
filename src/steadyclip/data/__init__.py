"""Images with names: data sources, their splits, what training may see of them, and batches.

The names below are imported when they are first used: listing and sampling a data source needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
