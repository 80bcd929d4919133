"""ProGrad: learned words that step only where the frozen model does not object (Zhu et al. 2023, arXiv 2205.14865)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyclip.core.spec import Spec
from steadyclip.methods.coop import CoOp
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import Consistency, CrossEntropy, Objective, as_objective


class Projected(Spec):
    """The first gradient g, less ``share`` of its part against the second one h: g - share (g.h / h.h) h if g.h < 0.

    Source: Zhu et al. 2023, equation 5.
    """

    share: float = 1.0

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        g, h = gradients
        against = (g * h).sum() / (h * h).sum().clamp(min=1e-30)
        return g - self.share * torch.clamp(against, max=0) * h


@register
class ProGrad(CoOp):
    """The gradient of CE, projected where it is against that of KL(p0 || p), p0 the frozen model's predictions.

    Each learned tensor is projected for itself, as in the authors' code.
    """

    name = "prograd"
    summary = "CoOp whose gradients never go against the frozen model's predictions"
    source = "Zhu et al. 2023 (ProGrad, arXiv 2205.14865), equation 5; settings of the authors' code, temperature 1"

    recipe = Recipe(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, epochs=100, batch_size=32, views=10)
    share: float = 1.0
    """lambda: share of the opposing part that is taken away; the paper takes 0.8 on Flowers, DTD and EuroSAT."""

    def __post_init__(self) -> None:
        self.require("share", self.share >= 0, "0 or more")

    def objective(self) -> Objective:
        groups = as_objective(CrossEntropy()), as_objective(Consistency())
        return Objective(groups=groups, combine=Projected(self.share))
