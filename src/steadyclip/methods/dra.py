"""DRA, dynamic rank adaptation (Wang, Xu, Jiang, Luo 2025, arXiv 2507.05668): more rank for the tokens that matter."""

from __future__ import annotations

from typing import Literal

from steadyclip.adapters import TokenRank
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import CrossEntropy, DeltaL1, FeatureL1, Image, Objective, Read, Text


@register
class DRA(Method):
    """Token importance decides the rank of the adaptation, beside the MLP of the upper blocks of both towers.

    CE(s cos(f_I, F_T), y) + lambda (w_I |f_I - f_I0|_1 + w_T |F_T - F_T0|_1), the L1 as means over elements.

    Stated by the paper: tokens are scored by sequence attention and grouped by importance; important groups get the
    higher rank; a channel response per instance; an L1 term that stabilizes the training; both encoders. The formulas
    are our reading (that the L1 is on features and held to the frozen ones, too), and every knob has alternatives
    (docs/methods/dra.md).
    """

    name = "dra"
    summary = "a bottleneck beside the MLP with more rank for the tokens that matter, held to the frozen features"
    source = "Wang et al. 2025 (DRA, arXiv 2507.05668), our reading of it; recipe of its nearest relative, MMA (2024)"

    adapters = (TokenRank(),)
    recipe = Recipe(optimizer="sgd", learning_rate=1.5e-3, epochs=5, batch_size=16)
    l1: Literal["features", "delta", "off"] = "features"
    """What the L1 term is on: features against those of the frozen model, what the adapters add, or nothing."""
    l1_weight: float = 0.5
    """lambda, of the whole L1 term; to be chosen once on validation among 0, 0.1, 0.5, 1."""
    l1_image: float = 10.0
    """w_I, of the image tower in the L1 term."""
    l1_text: float = 25.0
    """w_T, of the text tower in the L1 term."""

    def __post_init__(self) -> None:
        for knob in ("l1_weight", "l1_image", "l1_text"):
            self.require(knob, getattr(self, knob) >= 0, "0 or more")

    def objective(self) -> Objective:
        image = self.l1_weight * self.l1_image * (self.l1 != "off") * ("image" in self.touched)
        text = self.l1_weight * self.l1_text * (self.l1 != "off") * ("text" in self.touched)
        if self.l1 == "delta":
            text_delta = Read("text", Text().view, what="delta")
            return CrossEntropy() + image * DeltaL1(Image(what="delta")) + text * DeltaL1(text_delta)
        return CrossEntropy() + image * FeatureL1("image") + text * FeatureL1("text")
