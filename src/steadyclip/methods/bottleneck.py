"""A plain parallel bottleneck adapter: what DRA is without its ideas, and the baseline it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from steadyclip.adapters import attach_bottleneck
from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.objectives import prompt_cross_entropy


@register
@dataclass(frozen=True)
class BottleneckAdapter(Method):
    """The same rank for every token, beside the MLP of the upper blocks; cross-entropy among class prompts."""

    name = "bottleneck"
    summary = "a bottleneck beside the MLP, one rank for all tokens, in the upper blocks of both towers"
    source = (
        "He et al. 2022 (parallel adapter), Chen et al. 2022 (AdaptFormer); placed and trained as our reading of DRA"
    )
    mergeable = False  # there is a nonlinearity between its two matrices
    recipe = Recipe(optimizer="sgd", learning_rate=1.5e-3, epochs=5, batch_size=16)  # that of MMA, as for DRA

    rank: int = 32
    """r: columns of the bottleneck."""
    activation: Literal["relu", "gelu"] = "relu"
    """phi, between the two matrices."""
    scale: float = 1.0
    """Factor of what is added to the MLP's output."""
    first_block: int | None = None
    """First adapted block, counted from 1; none: the upper two thirds (5 to 12 of 12)."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers are adapted."""

    def __post_init__(self) -> None:
        self.require("rank", self.rank >= 1, "at least 1")
        self.require("scale", self.scale > 0, "above 0")
        self.require("first_block", self.first_block is None or self.first_block >= 1, "at least 1")

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.requires_grad_(False)
        attach_bottleneck(
            model,
            rank=self.rank,
            scale=self.scale,
            activation=self.activation,
            first_block=self.first_block,
            towers=self.towers,
        )

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": prompt_cross_entropy(model, batch)}
