"""MMRL: learned tokens of a shared space in the upper blocks of both towers (Guo and Gu 2025, arXiv 2503.08497)."""

from __future__ import annotations

from steadyclip.adapters import SpaceTokens
from steadyclip.heads import SpaceHead
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import CrossEntropy, Distance, Image, Objective, Text


@register
class MMRL(Method):
    """alpha CE(f, t) + (1 - alpha) CE(f_r, t) + w (1 - cos(f, f0)) + w (1 - mean cos(t, t0)).

    The learned tokens carry what is of the trained classes; f, which names others too, is held to the frozen feature.
    """

    name = "mmrl"
    summary = "tokens of a shared space in the upper blocks of both towers, with a say on trained classes only"
    source = "Guo and Gu 2025 (MMRL, arXiv 2503.08497); formulas and settings of the authors' code for base to new"

    adapters = (SpaceTokens(),)
    head = SpaceHead()
    recipe = Recipe(learning_rate=1e-3, weight_decay=5e-4, epochs=10, batch_size=4)
    w: float = 0.5
    """lambda: weight of what holds the features; the authors choose one for each data set, from 0.01 to 7."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective:
        alpha = self.head.alpha  # type: ignore[attr-defined]
        held = self.w * (Distance(Image(), Image(state="frozen"), "cosine"))
        held = held + self.w * Distance(Text(), Text(state="frozen"), "cosine")
        return alpha * CrossEntropy(output="class") + (1 - alpha) * CrossEntropy(output="space") + held
