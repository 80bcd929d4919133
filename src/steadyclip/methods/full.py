"""Full fine-tuning: every weight, by cross-entropy among class prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.objectives import prompt_cross_entropy


@register
@dataclass(frozen=True)
class Full(Method):
    """The baseline that gains most on the classes it sees, and forgets most of the others."""

    name = "full"
    summary = "all weights, cross-entropy among class prompts"
    source = (
        "the fine-tuning baseline of Wortsman et al. 2022 (WiSE-FT), with a class-prompt head and both towers trained"
    )
    own_weights = True
    # rate, decay and schedule as in WiSE-FT and FLYP; batch and length are ours for few shots
    recipe = Recipe(learning_rate=1e-5, weight_decay=0.1, epochs=20, batch_size=32, warmup_steps=50, clip_norm=1.0)

    towers: Literal["both", "image", "text"] = "both"
    """Which towers are trained; the logit scale always is."""

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.train_weights(self.towers)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": prompt_cross_entropy(model, batch)}
