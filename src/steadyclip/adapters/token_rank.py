"""A bottleneck beside the MLP whose rank depends on the token: our reading of DRA (arXiv 2507.05668).

The paper states that sequence attention scores the tokens of a sequence, that tokens are grouped by importance, that
the more important groups get the higher rank, and that a channel response decides per instance which feature channels
are adapted. How each is computed is our reading of it, and an option with alternatives.

Shapes: B sequences, N tokens, D width of the tower, H heads, R columns of the bottleneck, G groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.bottleneck import BottleneckBlock, Parallel
from steadyclip.models import Block, DualEncoder, Layout, Tower


class TokenRank(Parallel):
    """Token importance decides the rank of the adaptation, beside the MLP of the upper blocks."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        falling = list(self.ranks) == sorted(self.ranks, reverse=True)
        self.require("ranks", bool(self.ranks) and min(self.ranks) >= 1 and falling, "whole numbers, the largest first")
        if self.shares is not None:
            fits = len(self.shares) == len(self.ranks) and min(self.shares) > 0 and abs(sum(self.shares) - 1) < 1e-6
            self.require("shares", fits, f"{len(self.ranks)} numbers above 0, one for each rank, adding up to 1")

    def make(self, tower: Tower, block: Block) -> TokenRankBlock:
        return TokenRankBlock(tower, block, self)

    def groups(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Ranks from the most important group to the least, and shares, under the chosen assignment."""
        shares = self.shares or (1 / len(self.ranks),) * len(self.ranks)
        if self.assignment == "uniform":
            mean = sum(rank * share for rank, share in zip(self.ranks, shares, strict=True))
            return (max(1, round(mean)),), (1.0,)
        return self.ranks[::-1] if self.assignment == "inverse" else self.ranks, shares


@dataclass(frozen=True)
class TokenTrace:
    """What one adapter did in one forward pass; see ``watch_tokens``.

    Attributes:
        tower: "image" or "text".
        block: of the tower, counted from 0.
        scores_BN: importance of the tokens; sums to 1 over the valid ones, 0 elsewhere.
        ranks_BN: columns that each token used; 0 for padding, which is not adapted.
        delta_BND: what was added to the MLP's output, before the scale; with its gradient.
    """

    tower: str
    block: int
    scores_BN: Tensor
    ranks_BN: Tensor
    delta_BND: Tensor


class TokenRankBlock(BottleneckBlock):
    """Adds ``scale * delta`` to the MLP of one block: delta_i = g * ((m_i * phi(x_i W_down + b)) W_up).

    m_i keeps the first r columns, r being the rank of token i's group; g is the gate over channels. Scores and gate are
    statistics of the input and carry no gradient, except to their own weights under the learned options. The tower
    tells which tokens are padding and which one is the summary.
    """

    def __init__(self, tower: Tower, block: Block, spec: TokenRank) -> None:
        ranks, shares = spec.groups()
        super().__init__(block, spec, max(ranks))
        self.tower, self.block, self.ranks, self.shares = tower, block, ranks, shares
        self.score, self.shuffled, self.channel = spec.score, spec.assignment == "random", spec.channel
        self.traces: list[TokenTrace] | None = None
        self._query: Tensor | None = None
        self._attention_BN: Tensor | None = None
        self._size_B12: Tensor | None = None
        width, device = block.fc1.in_features, block.fc1.weight.device
        if self.score == "learned":
            self.importance = nn.Parameter(0.02 * torch.randn(width, device=device))
        if self.channel == "squeeze_excite":
            squeezed = max(1, width // 16)
            self.squeeze = nn.Parameter(torch.randn(squeezed, width, device=device) * width**-0.5)
            self.excite = nn.Parameter(torch.zeros(width, squeezed, device=device))  # so the gate starts at 1

    def install(self) -> list[RemovableHandle]:
        handles = super().install()
        if self.score != "learned":
            # q and k are taken as the block computes them; its own attention stays fused.
            handles.append(self.block.q.register_forward_hook(self._see_q))
            handles.append(self.block.k.register_forward_hook(self._see_k))
        return handles

    def emitted(self, tower: str) -> dict[str, Tensor]:
        """ "delta": (B, 1, 2), sum of |delta| over tokens and channels, and how many numbers were added up."""
        size_B12, self._size_B12 = self._size_B12, None
        return {} if size_B12 is None else {"delta": size_B12}

    def _see_q(self, _: nn.Module, __: tuple[Tensor, ...], q_BND: Tensor) -> None:
        if self.enabled:
            keep_all = self.score == "received"
            q_BND = q_BND.detach()
            self._query = q_BND if keep_all else summary_query(q_BND, self.tower.layout(q_BND.shape[1]))

    @torch.no_grad()
    def _see_k(self, _: nn.Module, __: tuple[Tensor, ...], k_BND: Tensor) -> None:
        if self.enabled:
            assert self._query is not None  # every block projects q before k
            attention = received_attention if self.score == "received" else summary_attention
            layout = self.tower.layout(k_BND.shape[1])
            self._attention_BN = attention(self._query, k_BND, layout, self.block.num_heads)
            self._query = None

    def delta(self, x_BND: Tensor) -> Tensor:
        layout = self.tower.layout(x_BND.shape[1])
        scores_BN = self._scores(x_BND, layout)
        order_BN = self._random(scores_BN) if self.shuffled else scores_BN.detach()
        ranks_BN = group_ranks(order_BN, layout, self.ranks, self.shares)
        columns_R = torch.arange(len(self.bias), device=x_BND.device)
        hidden_BNR = self.hidden(x_BND) * (columns_R < ranks_BN[..., None])
        if self.score == "learned":
            # A hard sort teaches nothing, so a token also acts in proportion to its score, as in routed mixtures.
            share_BN = scores_BN * layout.valid_BN.sum(dim=1, keepdim=True)
            hidden_BNR = hidden_BNR * share_BN[..., None].to(hidden_BNR.dtype)
        delta_BND = F.linear(hidden_BNR, self.up)
        if self.channel != "off":
            delta_BND = delta_BND * self._gate(x_BND, scores_BN)[:, None].to(delta_BND.dtype)
        if "delta" in self.wanted:
            adapted_B = (ranks_BN > 0).sum(dim=1) * delta_BND.shape[-1]
            total_B = delta_BND.abs().sum(dim=(1, 2), dtype=torch.float32)
            self._size_B12 = torch.stack([total_B, adapted_B.to(total_B.dtype)], dim=-1)[:, None]
        if self.traces is not None:
            self.traces.append(TokenTrace(self.tower.name, self.block.index, scores_BN.detach(), ranks_BN, delta_BND))
        return delta_BND

    def _scores(self, x_BND: Tensor, layout: Layout) -> Tensor:
        if self.score == "learned":
            return (x_BND.detach() @ self.importance).float().masked_fill(~layout.valid_BN, -torch.inf).softmax(dim=1)
        scores_BN, self._attention_BN = self._attention_BN, None
        assert scores_BN is not None  # every block runs its attention before its MLP
        return scores_BN

    def _random(self, scores_BN: Tensor) -> Tensor:
        """New at every training step; in evaluation by block and position only, so that a result can be repeated."""
        if self.training:
            return torch.rand_like(scores_BN)
        generator = torch.Generator().manual_seed(self.block.index)
        return torch.rand(scores_BN.shape[1], generator=generator).to(scores_BN.device).expand_as(scores_BN)

    def _gate(self, x_BND: Tensor, scores_BN: Tensor) -> Tensor:
        """2 sigmoid(z), (B, D), about 1 on average. The pooled response is u_D = sum_i a_i |x_i|; z is learned from it,
        or (u - mean u) / std u over the channels of each instance.
        """
        response_BD = (scores_BN.detach()[:, None].to(x_BND.dtype) @ x_BND.detach().abs())[:, 0].float()
        if self.channel == "response":
            z_BD = F.layer_norm(response_BD, response_BD.shape[-1:])
        else:
            z_BD = F.linear(F.relu(F.linear(response_BD, self.squeeze)), self.excite)
        return 2 * z_BD.sigmoid()


def summary_query(q_BND: Tensor, layout: Layout) -> Tensor:
    """The summary token's row of q: (B, D). Where there is none, the mean row over the valid tokens."""
    if layout.summary_B is not None:
        return q_BND[torch.arange(q_BND.shape[0], device=q_BND.device), layout.summary_B]
    weights_BN = layout.valid_BN / layout.valid_BN.sum(dim=1, keepdim=True)
    return (weights_BN[..., None].to(q_BND.dtype) * q_BND).sum(dim=1)


def summary_attention(q_BD: Tensor, k_BND: Tensor, layout: Layout, heads: int) -> Tensor:
    """softmax over the valid tokens of q K^T / sqrt(d), mean over heads: (B, N) in float32."""
    q_BHd, k_BNHd = (z.unflatten(-1, (heads, -1)) for z in (q_BD, k_BND))
    logits_BNH = (q_BHd[:, None] * k_BNHd).sum(dim=-1, dtype=torch.float32) * q_BHd.shape[-1] ** -0.5
    return logits_BNH.masked_fill(~layout.valid_BN[..., None], -torch.inf).softmax(dim=1).mean(dim=-1)


def received_attention(q_BND: Tensor, k_BND: Tensor, layout: Layout, heads: int) -> Tensor:
    """The attention that each token receives, mean over heads and valid queries: (B, N) in float32.

    Unlike ``summary_attention`` it needs the whole attention matrix.
    """
    q_BHNd, k_BHNd = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q_BND, k_BND))
    logits_BHNN = (q_BHNd @ k_BHNd.mT).float() * q_BHNd.shape[-1] ** -0.5
    length = k_BND.shape[1]
    seen_BNN = layout.valid_BN[:, None].expand(-1, length, -1)
    if layout.causal:
        seen_BNN = seen_BNN.tril()
    attention_BNN = logits_BHNN.masked_fill(~seen_BNN[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    valid_BN1 = layout.valid_BN[..., None]
    return attention_BNN.masked_fill(~valid_BN1, 0.0).sum(dim=1) / valid_BN1.sum(dim=1)


def group_ranks(scores_BN: Tensor, layout: Layout, ranks: Sequence[int], shares: Sequence[float]) -> Tensor:
    """The rank of every token, (B, N); 0 where it is not valid.

    Valid tokens are sorted by score, the summary token first whatever its score, equals by position. The token at place
    p of n (from 0) is in the first group whose cumulative share exceeds p / n: what does not divide evenly, and the few
    tokens of a short text, go to the more important groups.
    """
    keys_BN = scores_BN.masked_fill(~layout.valid_BN, -torch.inf)
    if layout.summary_B is not None:
        keys_BN = keys_BN.scatter(1, layout.summary_B[:, None], torch.inf)
    place_BN = _places(keys_BN)
    count_B1 = layout.valid_BN.sum(dim=1, keepdim=True)
    ranks_BN = torch.full_like(place_BN, ranks[0])
    for edge, (rank, following) in zip(itertools.accumulate(shares), itertools.pairwise(ranks), strict=False):
        # the little is for rounding: 10 * (0.1 + 0.2) is more than 3
        ranks_BN += (following - rank) * (place_BN + 1e-3 >= count_B1 * edge)
    return ranks_BN.masked_fill(~layout.valid_BN, 0)


def _places(keys_BN: Tensor) -> Tensor:
    """The place of each key of a row in falling order, from 0; equals by position."""
    positions_N = torch.arange(keys_BN.shape[1], device=keys_BN.device)
    if getattr(torch.compiler, "is_exporting", bool)():  # ONNX has no stable sort: each key is compared with each other
        own_BN1, other_B1N = keys_BN[:, :, None], keys_BN[:, None, :]
        before_BNN = (other_B1N > own_BN1) | ((other_B1N == own_BN1) & (positions_N < positions_N[:, None]))
        return before_BNN.long().sum(dim=2)
    order_BN = keys_BN.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order_BN).scatter_(1, order_BN, positions_N.expand_as(order_BN))


@contextmanager
def watch_tokens(model: DualEncoder) -> Iterator[list[TokenTrace]]:
    """Inside, every adapted block that runs appends its ``TokenTrace`` to the list that this gives."""
    adapters = [adapter for adapter in model.adapters.modules() if isinstance(adapter, TokenRankBlock)]
    before = [adapter.traces for adapter in adapters]
    traces: list[TokenTrace] = []
    for adapter in adapters:
        adapter.traces = traces
    try:
        yield traces
    finally:
        for adapter, was in zip(adapters, before, strict=True):
            adapter.traces = was
