"""FLYP: fine-tune like you pretrain (Goyal et al. 2023, arXiv 2212.00638)."""

from __future__ import annotations

from typing import Literal

from steadyclip.adapters import Weights
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import DrawnPrompts, InfoNCE, Objective, Term, Text


@register
class FLYP(Method):
    """The loss of the pretraining goes on: each image against the prompts of the images beside it."""

    name = "flyp"
    summary = "all weights; the contrastive loss of pretraining, with class prompts as texts"
    source = "Goyal et al. 2023 (FLYP, arXiv 2212.00638), loss and recipe; how templates are drawn is our reading of it"

    adapters = (Weights(),)
    recipe = Recipe(learning_rate=1e-5, weight_decay=0.1, epochs=10, batch_size=512, warmup_steps=500)
    draw: Literal["step", "image", "first"] = "step"
    """One of the data set's templates is drawn at random for each step or for each image, or it is always the first."""
    mask_same_class: bool = False
    """Images of one class in a batch are no negatives of each other; off is FLYP."""

    def objective(self) -> Objective | Term:
        return self.prompts()

    def prompts(self, again: bool = False) -> Term:
        """l(x, t), x the images and t a prompt of the class of each; ``again`` draws other templates."""
        return InfoNCE(Text(DrawnPrompts(draw=self.draw, again=again)), mask_same_class=self.mask_same_class)
