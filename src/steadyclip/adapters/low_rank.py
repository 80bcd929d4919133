"""Low-rank updates of linear layers (Hu et al. 2022, LoRA): y = W x + (alpha / r) B A dropout(x)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, Layer, require_width
from steadyclip.models import Adapter, DualEncoder


class LowRank(AdapterSpec):
    """Low-rank updates of linear layers in every block of the chosen towers.

    Source: Hu et al. 2022 (LoRA); the defaults are those of Zanella and Ben Ayed 2024 for few shots.
    """

    rank: int = 2
    """r: columns of the update."""
    alpha: float = 1.0
    """The update is multiplied by alpha / r."""
    dropout: float = 0.25
    """On the input of the update only."""
    layers: tuple[Layer, ...] = ("q", "k", "v")
    """Which linear layers of a block."""

    def __post_init__(self) -> None:
        self.require("rank", self.rank >= 1, "at least 1")
        self.require("dropout", 0 <= self.dropout < 1, "from 0 to below 1")
        self.require("layers", 0 < len({*self.layers}) == len(self.layers), "one layer or more, each once")

    def attach(self, model: DualEncoder) -> None:
        for tower in self.chosen(model):
            for block in tower.blocks:
                for layer in self.layers:
                    model.attach(f"{tower.name}_{block.index}_{layer}", LowRankLayer(getattr(block, layer), self))


class LowRankLayer(Adapter):
    """Adds ``(alpha / rank) * B A x`` to one linear layer; ``B`` starts at zero, so the first step changes nothing.

    Shapes: A (rank, inputs), B (outputs, rank).
    """

    linear: nn.Linear

    def __init__(self, linear: nn.Linear, spec: LowRank) -> None:
        super().__init__()
        self.refer("linear", linear)
        self.scale, self.dropout = spec.alpha / spec.rank, spec.dropout
        require_width("rank", spec.rank, min(linear.in_features, linear.out_features))
        self.A = nn.Parameter(torch.empty(spec.rank, linear.in_features, device=linear.weight.device))
        self.B = nn.Parameter(torch.zeros(linear.out_features, spec.rank, device=linear.weight.device))
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
