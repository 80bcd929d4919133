"""LoRA on the attention of both towers, as the strong few-shot baseline of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from steadyclip.adapters import attach_low_rank
from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.objectives import prompt_cross_entropy


@register
@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of q, k, v in all blocks of both towers; cross-entropy among class prompts."""

    name = "lora"
    summary = "low-rank updates of q, k, v in all blocks of both towers"
    source = "Zanella and Ben Ayed 2024 (low-rank few-shot adaptation of vision-language models); Hu et al. 2022"
    # the published recipe: AdamW 2e-4, batch 32, 500 steps for each shot, cosine
    recipe = Recipe(learning_rate=2e-4, weight_decay=0.01, steps_per_shot=500, batch_size=32)

    rank: int = 2
    """r: columns of the update."""
    alpha: float = 1.0
    """The update is multiplied by alpha / r."""
    dropout: float = 0.25
    """On the input of the update only."""
    layers: tuple[Literal["q", "k", "v", "out", "fc1", "fc2"], ...] = ("q", "k", "v")
    """Which linear layers of a block."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers are adapted."""

    def __post_init__(self) -> None:
        self.require("rank", self.rank >= 1, "at least 1")
        self.require("dropout", 0 <= self.dropout < 1, "from 0 to below 1")

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.requires_grad_(False)
        towers = ("image", "text") if self.towers == "both" else (self.towers,)
        attach_low_rank(
            model, layers=self.layers, rank=self.rank, alpha=self.alpha, dropout=self.dropout, towers=towers
        )

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": prompt_cross_entropy(model, batch)}
