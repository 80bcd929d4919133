"""OrthCR and its later form OrthSR: orthogonal maps of feed-forward weights, held to the frozen model.

p are predictions of the tuned model and p0 of the frozen one; p_a is tuned images by frozen texts, p_b frozen images by
tuned texts; x' is x with a square cut out.
"""

from __future__ import annotations

from typing import Literal

from steadyclip.adapters import Orthogonal
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import (
    AttentiveCutout,
    Consistency,
    CrossedEntropy,
    CrossEntropy,
    Cutout,
    Image,
    Objective,
    Plain,
    Term,
    View,
)


@register
class OrthSR(Method):
    """CE(p(x), y) + CE(p(x'), y) + l1 R(x) + l2 R(x') with R = KL(p0 || p): the tuned model agrees with the frozen."""

    name = "orthsr"
    summary = "orthogonal maps of the feed-forward weights, self-regularization, attentive Cutout"
    source = (
        "our reading of OrthSR (Li et al. 2024, arXiv 2407.08374 v3): the terms, l1 = 1.5 and l2 = 1 are the paper's; "
        "which of the two belongs to the cut view, and how a region is chosen, is ours"
    )

    adapters = (Orthogonal(),)
    # our reading of what is not public: Adam between 1e-5 and 1e-4, 5 to 20 epochs, batch 4 to 32
    recipe = Recipe(learning_rate=1e-5, epochs=10, batch_size=32)
    cut: Literal["plain", "attentive", "off"] = "attentive"
    """The square of x' is random, or where the frozen model sees the true class most; off leaves x' out."""
    side: float = 0.5
    """Side of that square, as a share of the image (our reading)."""
    l1: float = 1.5
    """Weight of the regularization on x."""
    l2: float = 1.0
    """Weight of the regularization on x'."""

    def __post_init__(self) -> None:
        self.require("side", 0 < self.side < 1, "a share between 0 and 1")
        self.require("l1", self.l1 >= 0, "0 or more")
        self.require("l2", self.l2 >= 0, "0 or more")

    def objective(self) -> Objective:
        terms = CrossEntropy() + self.l1 * self.regularizer(Plain())
        if self.cut == "off":
            return terms
        cut = {"plain": Cutout, "attentive": AttentiveCutout}[self.cut](self.side)
        return terms + CrossEntropy(Image(cut)) + self.l2 * self.regularizer(cut)

    def regularizer(self, view: View) -> Term:
        """R of one view."""
        return Consistency(view)


@register
class OrthCR(OrthSR):
    """Each tower, tuned, must agree with the other one, frozen: R = KL(p0 || p_a) + KL(p0 || p_b)."""

    name = "orthcr"
    summary = "orthogonal maps of the feed-forward weights, cross-regularization, Cutout"
    source = (
        "our reading of OrthCR (Li et al. 2024, arXiv 2407.08374 v1): the orthogonal layer, the bypass through initial "
        "weights and Cutout are the paper's, the formula of the regularization is ours"
    )

    cut = "plain"
    cross: Literal["kl", "ce"] = "kl"
    """R as above, or CE(p_a, y) + CE(p_b, y); the paper's own formula is not public."""

    def regularizer(self, view: View) -> Term:
        return Consistency(view, cross=True) if self.cross == "kl" else CrossedEntropy(view)
