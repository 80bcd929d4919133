"""DRA, dynamic rank adaptation (Wang, Xu, Jiang, Luo 2025, arXiv 2507.05668): more rank for the tokens that matter."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.adapters import TokenTrace, attach_token_rank, watch_tokens
from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder


@register
@dataclass(frozen=True)
class DRA(Method):
    """Token importance decides the rank of the adaptation, beside the MLP of the upper blocks of both towers.

    Stated by the paper: tokens are scored by sequence attention and grouped by importance; important groups get the
    higher rank; a channel response per instance; an L1 term that stabilizes the training; both encoders. The formulas
    are our reading, and every knob has alternatives (docs/methods/dra.md).
    """

    name = "dra"
    summary = "a bottleneck beside the MLP with more rank for the tokens that matter, held to the frozen features"
    source = "Wang et al. 2025 (DRA, arXiv 2507.05668), our reading of it; recipe of its nearest relative, MMA (2024)"
    mergeable = False  # ranks and gate depend on the input
    recipe = Recipe(optimizer="sgd", learning_rate=1.5e-3, epochs=5, batch_size=16)

    ranks: tuple[int, ...] = (32, 16, 8)
    """r_1, ..., r_G: columns for each group of tokens, most important first; as many groups as ranks."""
    shares: tuple[float, ...] | None = None
    """Share of the tokens in each group, adding up to 1; none: equal."""
    assignment: Literal["importance", "inverse", "random", "uniform"] = "importance"
    """Important tokens get the high rank; or a control: the low one, a random one, all the mean one (rounded)."""
    score: Literal["summary", "received", "learned"] = "summary"
    """a: attention that the summary token pays to a token, that it receives from all, or a learned linear score."""
    channel: Literal["response", "squeeze_excite", "off"] = "response"
    """g, the gate over channels: from the pooled response, learned from it (reduction 16), or none."""
    activation: Literal["relu", "gelu"] = "relu"
    """phi, between the two matrices."""
    scale: float = 1.0
    """Factor of what is added to the MLP's output."""
    first_block: int | None = None
    """First adapted block, counted from 1; none: the upper two thirds (5 to 12 of 12)."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers are adapted."""
    l1: Literal["features", "delta", "off"] = "features"
    """What the L1 term is on: features against those of the frozen model, what the adapters add, or nothing."""
    l1_weight: float = 0.5
    """lambda, of the whole L1 term; to be chosen once on validation among 0, 0.1, 0.5, 1."""
    l1_image: float = 10.0
    """w_I, of the image tower in the L1 term."""
    l1_text: float = 25.0
    """w_T, of the text tower in the L1 term."""

    def __post_init__(self) -> None:
        falling = list(self.ranks) == sorted(self.ranks, reverse=True)
        self.require("ranks", bool(self.ranks) and min(self.ranks) >= 1 and falling, "whole numbers, the largest first")
        if self.shares is not None:
            fits = len(self.shares) == len(self.ranks) and min(self.shares) > 0 and abs(sum(self.shares) - 1) < 1e-6
            self.require("shares", fits, f"{len(self.ranks)} numbers above 0, one for each rank, adding up to 1")
        self.require("scale", self.scale > 0, "above 0")
        self.require("first_block", self.first_block is None or self.first_block >= 1, "at least 1")
        for knob in ("l1_weight", "l1_image", "l1_text"):
            self.require(knob, getattr(self, knob) >= 0, "0 or more")

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.requires_grad_(False)
        ranks, shares = self._groups()
        attach_token_rank(
            model,
            ranks=ranks,
            shares=shares,
            score=self.score,
            shuffled=self.assignment == "random",
            channel=self.channel,
            scale=self.scale,
            activation=self.activation,
            first_block=self.first_block,
            towers=self.towers,
        )

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """CE(s cos(f_I, F_T), y) + lambda (w_I |f_I - f_I0|_1 + w_T |F_T - F_T0|_1), the L1 as means over elements.

        That there is an L1 term is the paper's; that it is on features and held to the frozen ones is our reading.
        """
        kind = self.l1 if self.l1_weight else "off"
        # before anything is kept for the backward pass: so it costs no memory
        frozen_BD = _frozen_image(model, batch) if kind == "features" and self.towers != "text" else None
        with watch_tokens(model) if kind == "delta" else contextlib.nullcontext([]) as traces:
            image_BD = model.encode_image(batch.images_BCHW)
            text_CD = model.frozen_text(batch.prompts) if self.towers == "image" else model.encode_text(batch.prompts)
        terms = {"cross_entropy": F.cross_entropy(model.logits(image_BD, text_CD), batch.labels_B)}
        if kind != "off" and self.towers != "text":
            l1 = _size(traces, "image") if frozen_BD is None else F.l1_loss(image_BD, frozen_BD)
            terms["l1_image"] = self.l1_weight * self.l1_image * l1
        if kind != "off" and self.towers != "image":
            l1 = _size(traces, "text") if kind == "delta" else F.l1_loss(text_CD, model.frozen_text(batch.prompts))
            terms["l1_text"] = self.l1_weight * self.l1_text * l1
        return terms

    def _groups(self) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
        """Ranks from the most important group to the least, and shares, under the chosen assignment."""
        if self.assignment == "inverse":
            return self.ranks[::-1], self.shares
        if self.assignment == "uniform":
            shares = self.shares or (1 / len(self.ranks),) * len(self.ranks)
            mean = sum(rank * share for rank, share in zip(self.ranks, shares, strict=True))
            return (max(1, round(mean)),), None
        return self.ranks, self.shares


def _frozen_image(model: DualEncoder, batch: Batch) -> Tensor:
    with model.frozen():
        return model.encode_image(batch.images_BCHW)


def _size(traces: list[TokenTrace], tower: str) -> Tensor:
    """Mean |delta| over blocks, adapted tokens and channels."""
    sizes = [
        t.delta_BND.abs().sum() / ((t.ranks_BN > 0).sum() * t.delta_BND.shape[-1]) for t in traces if t.tower == tower
    ]
    return torch.stack(sizes).mean()
