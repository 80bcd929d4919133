"""A row of weights for each class.

Shapes: N images, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.heads.base import FeatureTask, Head, HeadSpec
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Features, Read


class LinearHead(HeadSpec):
    """f W^T + b over unit features. ``solve`` minimizes ``strength * sum CE + |W|^2 / 2`` (the bias is free).

    Source: Radford et al. 2021 (CLIP), section 3.2 and appendix A.3.
    """

    what: ClassVar[str] = "a linear probe"
    own_classes: ClassVar[bool] = True

    strength: float | None = None
    """Inverse regularization (scikit-learn's C); none: the best of `sweep` on the validation images."""
    sweep: tuple[float, ...] = (0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1000.0)
    """Strengths that are tried; without validation images, the middle one is taken."""
    iterations: int = 1000
    """L-BFGS iterations, at most."""

    def __post_init__(self) -> None:
        self.require("strength", self.strength is None or self.strength > 0, "above 0")
        self.require("sweep", bool(self.sweep) and min(self.sweep) > 0, "one strength or more, each above 0")
        self.require("iterations", self.iterations >= 1, "at least 1")

    @property
    def solves(self) -> bool:
        return True

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _LinearHead(classes, self, model.embed_dim)


class _LinearHead(Head):
    spec: LinearHead

    def __init__(self, classes: Sequence[str], spec: LinearHead, width: int) -> None:
        super().__init__(classes, spec)
        self.weight = nn.Parameter(torch.zeros(len(classes), width))
        self.bias = nn.Parameter(torch.zeros(len(classes)))

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        return {"logits": self.by_rows(f, sample)}

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        places = self.places(f.names)
        return self.weight[places], self.bias[places]

    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        (train, labels_N), (val, val_labels_N) = data.images("train", 0), data.images("val", 0)
        train_ND, val_ND = F.normalize(train[:, 0], dim=-1), F.normalize(val[:, 0], dim=-1)
        spec, strength, scores = self.spec, self.spec.strength, {}
        if strength is None and not len(val_ND):
            strength = sorted(spec.sweep)[len(spec.sweep) // 2]  # nothing to choose by
        if strength is None:
            for candidate in spec.sweep:
                weight_CD, bias_C = logistic_regression(
                    train_ND, labels_N, len(self.classes), candidate, spec.iterations
                )
                predicted_N = (val_ND.double() @ weight_CD.T + bias_C).argmax(1)
                scores[candidate] = float((predicted_N == val_labels_N).double().mean())
            strength = max(scores, key=lambda s: (scores[s], -s))  # of equals, the most regularized
        weight_CD, bias_C = logistic_regression(train_ND, labels_N, len(self.classes), strength, spec.iterations)
        with torch.no_grad():
            self.weight.copy_(weight_CD)
            self.bias.copy_(bias_C)
        return {"strength": strength, "validation": {str(k): round(v, 4) for k, v in scores.items()}}


def logistic_regression(
    features_ND: Tensor, labels_N: Tensor, classes: int, strength: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,), float64, that minimize ``strength * sum CE + |W|^2 / 2``, by L-BFGS."""
    x_ND = features_ND.detach().double()
    weight_CD = torch.zeros(classes, x_ND.shape[1], dtype=torch.float64, device=x_ND.device, requires_grad=True)
    bias_C = torch.zeros(classes, dtype=torch.float64, device=x_ND.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_CD, bias_C], max_iter=iterations, tolerance_grad=1e-6, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = strength * F.cross_entropy(x_ND @ weight_CD.T + bias_C, labels_N, reduction="sum")
        loss = loss + 0.5 * weight_CD.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight_CD.detach(), bias_C.detach()
