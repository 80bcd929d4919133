"""Low-rank updates of linear layers (Hu et al. 2022, LoRA): y = W x + (alpha / r) B A dropout(x)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.models import Adapter, DualEncoder


class LowRank(Adapter):
    """Adds ``(alpha / rank) * B A x`` to one linear layer; ``B`` starts at zero, so the first step changes nothing.

    Shapes: A (rank, inputs), B (outputs, rank).
    """

    linear: nn.Linear

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.refer("linear", linear)
        self.scale, self.dropout = alpha / rank, dropout
        self.A = nn.Parameter(torch.empty(rank, linear.in_features, device=linear.weight.device))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def install(self) -> list[RemovableHandle]:
        return [self.linear.register_forward_hook(self._add)]

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.enabled:
            return output
        x = F.dropout(inputs[0], self.dropout, self.training)
        return output + self.scale * F.linear(F.linear(x, self.A), self.B)

    @torch.no_grad()
    def merge(self) -> None:
        self.linear.weight += self.scale * self.B @ self.A


def attach_low_rank(
    model: DualEncoder,
    *,
    layers: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    towers: Sequence[str] = ("image", "text"),
) -> None:
    """One ``LowRank`` on each of ``layers`` ("q", "k", "v", "out", "fc1", "fc2") of every block of ``towers``."""
    for tower in (model.image_tower, model.text_tower):
        if tower.name in towers:
            for block in tower.blocks:
                for layer in layers:
                    adapter = LowRank(getattr(block, layer), rank, alpha, dropout)
                    model.attach(f"{tower.name}_{block.index}_{layer}", adapter)
