"""steadyclip: fine-tune CLIP-like vision-language models without losing what they know.

The names below are imported when they are first used, so that ``import steadyclip`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# public name -> the module that defines it
_PUBLIC = {
    "load": "steadyclip.models",
    "DualEncoder": "steadyclip.models",
    "load_data": "steadyclip.data",
    "ImageTask": "steadyclip.data",
    "Method": "steadyclip.methods",
    "compose": "steadyclip.methods",
    "get_method": "steadyclip.methods",
    "parse_row": "steadyclip.experiments.rows",
    "fit": "steadyclip.training",
    "load_run": "steadyclip.training",
    "evaluate": "steadyclip.evaluation",
    "SteadyClipError": "steadyclip.core.errors",
}

__all__ = [
    "DualEncoder",
    "ImageTask",
    "Method",
    "SteadyClipError",
    "__version__",
    "compose",
    "evaluate",
    "fit",
    "get_method",
    "load",
    "load_data",
    "load_run",
    "parse_row",
]

if TYPE_CHECKING:
    from steadyclip.core.errors import SteadyClipError
    from steadyclip.data import ImageTask, load_data
    from steadyclip.evaluation import evaluate
    from steadyclip.experiments.rows import parse_row
    from steadyclip.methods import Method, compose, get_method
    from steadyclip.models import DualEncoder, load
    from steadyclip.training import fit, load_run


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'steadyclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
