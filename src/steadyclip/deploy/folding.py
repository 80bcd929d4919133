"""A trained model as a plain one: adapters folded into the weights, the head as rows over unit features.

Shapes: C classes, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from steadyclip.core.errors import ModelError
from steadyclip.core.spec import piece_name
from steadyclip.deploy.classifier import WEIGHTS
from steadyclip.deploy.engine import TorchEngine

if TYPE_CHECKING:
    from steadyclip.deploy.classifier import Names


@dataclass(frozen=True)
class Rows:
    """A classifier: logits = scale * f @ weight.T + bias for image features f of length 1.

    Attributes:
        weight_CD, bias_C: float32.
        scale: the model's own where the rows are class texts, 1 where they were learned.
        names: "any" if the rows are class texts.
    """

    weight_CD: np.ndarray
    bias_C: np.ndarray
    scale: float
    names: Names

    @classmethod
    def of(cls, engine: TorchEngine, names: Names) -> Rows | None:
        """The head of ``engine``; None where it is no linear function of the features."""
        found = engine.scorer.rows()
        if found is None:
            return None
        weight_CD, bias_C = (None if values is None else values.detach().float().cpu().numpy() for values in found)
        assert weight_CD is not None
        scale = float(engine.model.logit_scale.detach()) if names == "any" else 1.0
        bias_C = np.zeros(len(weight_CD), np.float32) if bias_C is None else bias_C.copy()
        return cls(weight_CD / np.float32(scale), bias_C, scale, names)

    def write(self, folder: Path) -> None:
        """Write ``classifier.safetensors``: weight (C, D), bias (C), scale (1), float32."""
        scale = np.array([self.scale], np.float32)
        save_file({"weight": self.weight_CD, "bias": self.bias_C, "scale": scale}, folder / WEIGHTS)


def logits_of(folder: Path, unit_ND: np.ndarray) -> np.ndarray:
    """Logits (N, C) by ``classifier.safetensors``."""
    rows = load_file(folder / WEIGHTS)
    return rows["scale"] * unit_ND @ rows["weight"].T + rows["bias"]


def why_not(engine: TorchEngine) -> str:
    """Why the model cannot be folded, as the end of a sentence that begins with its name; "" if it can."""
    method = engine.method
    if engine.scorer.planner.conditional:
        return "makes other class texts for each image"
    if not method.head.mergeable:
        return f"tells classes apart by {method.head.what}, which is no linear function of the image features"
    stuck = [adapter for adapter in method.adapters if not adapter.mergeable]
    if any("image" in adapter.touches for adapter in stuck):
        names = " and ".join(piece_name(type(adapter)) for adapter in stuck)
        return f"adapts the image tower by {names}, which cannot be folded into plain weights"
    if stuck and any("image" in adapter.touches for adapter in method.adapters):
        return "folds into one tower and not into the other"
    return ""


def refuse_unfoldable(engine: TorchEngine, target: str) -> None:
    """Raises ModelError where there is no plain form."""
    if why := why_not(engine):
        nearest = (
            "name images by the run itself, with predict or serve"
            if engine.scorer.planner.conditional
            else "take --to onnx, which holds it as it is"
        )
        raise ModelError(f"--to {target} cannot hold {engine.method.row}: it {why}; {nearest}.")


def fold(engine: TorchEngine) -> Rows:
    """Make the model of ``engine`` the plain one, without adapters and head: the engine cannot be used afterwards.

    Adapters of the text tower that cannot be folded need not be: the class texts that they gave are kept as rows.

    Raises:
        ModelError: there is no plain form; ``why_not`` says why.
    """
    if why := why_not(engine):
        raise ModelError(f"{engine.method.row} {why}.")
    model, method = engine.model, engine.method
    any_name = method.mergeable and not engine.scorer.planner.head.spec.own_classes
    rows = Rows.of(engine, "any" if any_name else "fixed")
    assert rows is not None  # every head that says it is mergeable has rows
    if all(adapter.mergeable for adapter in method.adapters):
        method.merge(model)
    else:
        model.detach_all()
    return rows
