"""steadyclip: fine-tune CLIP-like vision-language models without losing what they know.

The names below are imported when they are first used, so that ``import steadyclip`` costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
