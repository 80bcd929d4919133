"""A trained model as a plain one: adapters folded into the weights, the head as rows over unit features.

Shapes: C classes, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steadyclip.core.errors import ModelError
from steadyclip.core.spec import piece_name
from steadyclip.deploy.engine import TorchEngine

if TYPE_CHECKING:
    from steadyclip.deploy.classifier import Names
    from steadyclip.models import DualEncoder


@dataclass(frozen=True)
class Plain:
    """A plain model and its classifier: logits = scale * f @ weight.T + bias for image features f of length 1.

    Attributes:
        model: without adapters and without a head.
        weight_CD, bias_C: float32.
        scale: the model's own where the rows are class texts, 1 where they were learned.
        names: "any" if the rows are the class texts of this model.
    """

    model: DualEncoder
    weight_CD: np.ndarray
    bias_C: np.ndarray
    scale: float
    names: Names


def why_not(engine: TorchEngine) -> str:
    """Why the model cannot be folded, as the end of a sentence that begins with its name; "" if it can."""
    method = engine.method
    if engine.scorer.planner.conditional:
        return "makes other class texts for each image"
    if not method.head.mergeable:
        return f"has {method.head.what} as its head, which is no linear function of the image features"
    stuck = [adapter for adapter in method.adapters if not adapter.mergeable]
    if any("image" in adapter.touches for adapter in stuck):
        names = " and ".join(piece_name(type(adapter)) for adapter in stuck)
        return f"adapts the image tower by {names}, which cannot be folded into plain weights"
    if stuck and any("image" in adapter.touches for adapter in method.adapters):
        return "folds into one tower and not into the other"
    return ""


def fold(engine: TorchEngine) -> Plain:
    """The plain form. The model of ``engine`` becomes the plain one: the engine cannot be used afterwards.

    Adapters of the text tower that cannot be folded need not be: the class texts that they gave are kept as rows.

    Raises:
        ModelError: there is no plain form; ``why_not`` says why.
    """
    if why := why_not(engine):
        raise ModelError(f"{engine.method.row} {why}.")
    model, method = engine.model, engine.method
    found = engine.scorer.rows()
    assert found is not None  # every head that says it is mergeable has rows
    weight_CD, bias_C = (None if values is None else values.detach().float().cpu().numpy() for values in found)
    assert weight_CD is not None
    any_name = method.mergeable and not engine.scorer.planner.head.own_classes
    scale = float(model.logit_scale.detach()) if any_name else 1.0
    bias_C = np.zeros(len(weight_CD), np.float32) if bias_C is None else bias_C.copy()
    if all(adapter.mergeable for adapter in method.adapters):
        method.merge(model)
    else:
        model.detach_all()
    return Plain(model, weight_CD / np.float32(scale), bias_C, scale, "any" if any_name else "fixed")
