"""Scoring a model: heads from names, image features, metrics, and one JSON record per evaluation.

Names are imported when they are first used: ``methods`` stands on ``evaluation.heads`` while ``evaluate`` knows
``methods``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# public name -> the module that defines it
_PUBLIC = {
    "ImageFeatures": "features",
    "Record": "records",
    "averaged": "wise",
    "choose_alpha": "wise",
    "evaluate": "scoring",
    "evaluate_averaged": "wise",
    "image_features": "features",
    "load_records": "records",
    "Scorer": "scorer",
}

__all__ = [
    "ImageFeatures",
    "Record",
    "Scorer",
    "averaged",
    "choose_alpha",
    "evaluate",
    "evaluate_averaged",
    "image_features",
    "load_records",
    "metrics",
]

if TYPE_CHECKING:
    from steadyclip.evaluation import metrics
    from steadyclip.evaluation.features import ImageFeatures, image_features
    from steadyclip.evaluation.records import Record, load_records
    from steadyclip.evaluation.scorer import Scorer
    from steadyclip.evaluation.scoring import evaluate
    from steadyclip.evaluation.wise import averaged, choose_alpha, evaluate_averaged


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name == "metrics":
        return importlib.import_module(f"{__name__}.metrics")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
