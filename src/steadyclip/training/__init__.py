"""Training: one trainer for every method, with exact resume.

The names below are imported when they are first used: settings cost no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
