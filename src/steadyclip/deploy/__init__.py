"""The way out: predictions, calibration, exports, and what answers elsewhere.

Names are imported when they are first used: an exported classifier answers without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
