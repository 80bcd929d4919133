"""Linear probe: multinomial logistic regression on frozen image features, by L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.adapters import LinearHead
from steadyclip.evaluation.heads import Head
from steadyclip.methods.base import Method, NoHead, register
from steadyclip.models import DualEncoder


@register
@dataclass(frozen=True)
class LinearProbe(Method):
    """Minimizes ``strength * sum CE + |W|^2 / 2`` (the bias is free); the strength comes from validation.

    It knows no names: it can only tell apart the classes it was trained on.
    """

    name = "linear-probe"
    summary = "logistic regression on frozen features; knows no names"
    source = "Radford et al. 2021 (CLIP), section 3.2 and appendix A.3"
    mergeable = False
    uses_frozen_features = True

    strength: float | None = None
    """Inverse regularization (scikit-learn's C); none = the best of `sweep` on the validation images."""
    sweep: tuple[float, ...] = (0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1000.0)
    """Strengths that are tried."""
    iterations: int = 1000
    """L-BFGS iterations, at most."""

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.requires_grad_(False)
        model.attach("probe", LinearHead(classes, model.embed_dim))

    def solve(
        self, model: DualEncoder, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None, seed: int
    ) -> dict[str, Any]:
        probe = _probe(model)
        strength, scores = self.strength, {}
        if strength is None:
            if val is None:
                strength = 3.16  # nothing to choose by: the middle of the sweep for unit-length features
            else:
                for candidate in self.sweep:
                    weight_CD, bias_C = logistic_regression(*train, len(probe.classes), candidate, self.iterations)
                    predicted_N = (val[0].double() @ weight_CD.T + bias_C).argmax(1)
                    scores[candidate] = float((predicted_N == val[1]).double().mean())
                strength = max(scores, key=lambda s: (scores[s], -s))  # of equals, the most regularized
        weight_CD, bias_C = logistic_regression(*train, len(probe.classes), strength, self.iterations)
        with torch.no_grad():
            probe.weight.copy_(weight_CD)
            probe.bias.copy_(bias_C)
        return {"strength": strength, "validation": {str(k): round(v, 4) for k, v in scores.items()}}

    def head(self, model: DualEncoder, names: Sequence[str], templates: Sequence[str]) -> Head:
        probe = _probe(model)
        unknown = [name for name in names if name not in probe.classes]
        if unknown:
            raise NoHead(
                f"a linear probe knows no names: {len(unknown)} of {len(names)} classes were not trained on "
                f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''})."
            )
        rows = [probe.classes.index(name) for name in names]
        return Head(probe.weight.detach()[rows], probe.bias.detach()[rows], 1.0, tuple(names))


def _probe(model: DualEncoder) -> LinearHead:
    probe = model.adapters["probe"]
    assert isinstance(probe, LinearHead)
    return probe


def logistic_regression(
    features_ND: Tensor, labels_N: Tensor, classes: int, strength: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,), float64, that minimize ``strength * sum CE + |W|^2 / 2``."""
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

    optimizer.step(closure)
    return weight_CD.detach(), bias_C.detach()
