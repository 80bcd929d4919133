"""A bottleneck in parallel with the MLP of a block: mlp(x) + scale * phi(x W_down + b) W_up.

Source: the parallel adapters of He et al. 2022 (ICLR) and Chen et al. 2022 (AdaptFormer).

Shapes: B sequences, N tokens, D width of the tower, R rank.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, require_width
from steadyclip.models import Adapter, Block, DualEncoder, Tower


class Parallel(AdapterSpec):
    """What the adapters beside the MLP of the upper blocks share."""

    mergeable: ClassVar[bool] = False  # there is a nonlinearity between the two matrices

    activation: Literal["relu", "gelu"] = "relu"
    """phi, between the two matrices."""
    scale: float = 1.0
    """Factor of what is added to the MLP's output."""
    first_block: int | None = None
    """First adapted block, counted from 1; none: the upper two thirds (5 to 12 of 12)."""

    def __post_init__(self) -> None:
        self.require("scale", self.scale > 0, "above 0")
        self.require("first_block", self.first_block is None or self.first_block >= 1, "at least 1")

    def make(self, tower: Tower, block: Block) -> BottleneckBlock:
        """The adapter of one block."""
        raise NotImplementedError(f"{type(self).__name__} must implement make()")

    def attach(self, model: DualEncoder) -> None:
        for tower in self.chosen(model):
            for block in self.blocks_from(model, tower, self.first_block):
                model.attach(f"{tower.name}_{block.index}_mlp", self.make(tower, block))


class Bottleneck(Parallel):
    """The same rank for every token, beside the MLP of the upper blocks."""

    rank: int = 32
    """r: columns of the bottleneck."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("rank", self.rank >= 1, "at least 1")

    def make(self, tower: Tower, block: Block) -> BottleneckBlock:
        return BottleneckBlock(block, self, self.rank)


class BottleneckBlock(Adapter):
    """Adds ``scale * delta(x)`` to the MLP of one block; ``up`` starts at zero, so the first step changes nothing.

    Shapes: down (R, D), bias (R,), up (D, R).
    """

    mlp: nn.Module

    def __init__(self, block: Block, spec: Parallel, rank: int) -> None:
        super().__init__()
        self.refer("mlp", block.mlp)
        self.scale = spec.scale
        self.activation = {"relu": F.relu, "gelu": F.gelu}[spec.activation]
        width, device = block.fc1.in_features, block.fc1.weight.device
        require_width("rank", rank, width, times=64)
        self.down = nn.Parameter(torch.empty(rank, width, device=device))
        self.bias = nn.Parameter(torch.zeros(rank, device=device))
        self.up = nn.Parameter(torch.zeros(width, rank, device=device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def install(self) -> list[RemovableHandle]:
        return [self.mlp.register_forward_hook(self._add)]

    def hidden(self, x_BND: Tensor) -> Tensor:
        """phi(x W_down + b): (B, N, R)."""
        return self.activation(F.linear(x_BND, self.down, self.bias))

    def delta(self, x_BND: Tensor) -> Tensor:
        """What is added to the MLP's output for its input ``x``, before the scale: (B, N, D)."""
        return F.linear(self.hidden(x_BND), self.up)

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.add(output, self.delta(inputs[0]), alpha=self.scale) if self.enabled else output
