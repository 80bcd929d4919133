"""Training: one trainer for every method, with exact resume.

The names below are imported when they are first used: settings cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# public name -> the module that defines it
_PUBLIC = {
    "FitResult": "trainer",
    "Stopped": "stop",
    "TrainConfig": "config",
    "fit": "trainer",
    "load_run": "run",
}

__all__ = ["FitResult", "Stopped", "TrainConfig", "fit", "load_run"]

if TYPE_CHECKING:
    from steadyclip.training.config import TrainConfig
    from steadyclip.training.run import load_run
    from steadyclip.training.stop import Stopped
    from steadyclip.training.trainer import FitResult, fit


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
