"""Exact search: the nearest pairs of a pool, found unit by unit, the same however the pool is cut.

Cosines are compared in float32, whose last bits depend on the device and on how many rows are multiplied at once. So
the best candidates of a unit are scored again in float64, rounded to 1e-6, and equal ones are put in the pool's order:
then every engine, every cut and every order of merging gives the same rows.

Shapes: Q queries, N pairs of a unit, K wanted, L candidates, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyclip.anchors.pool import KINDS, FinishedPart, Pool

UNIT_ROWS = 1_000_000
"""Rows of a unit: as many whole parts as fit, one at least."""
CHUNK, QUERIES, _BLOCK = 16_384, 1024, 64
"""Pairs and queries that are compared at once: their scores stay in the processor's cache and memory small."""
_SPARE, _STEP = 8, 1e-6
"""Candidates beyond those wanted; scores are multiples of the step."""


@dataclass(frozen=True)
class Queries:
    """What is looked for.

    Attributes:
        features: (Q, D) float32 of length 1 by kind: "image" where near-duplicates are left out, and what is wanted.
        wanted: kinds whose mean cosine is compared.
        near_duplicate: cosine of the images above which a pair is left out; None leaves none out.
        keys: names of the queries.
    """

    features: Mapping[str, Tensor]
    wanted: tuple[str, ...]
    near_duplicate: float | None = None
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features[self.kinds[0]])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The features of pairs that must be read."""
        image = self.near_duplicate is not None
        return tuple(kind for kind in KINDS if kind in self.wanted or (kind == "image" and image))

    @cached_property
    def hash(self) -> str:
        """16 hex digits over everything that decides what is found."""
        found = hashlib.sha256(json.dumps([self.wanted, self.near_duplicate, self.keys]).encode())
        for kind in self.kinds:
            found.update(np.ascontiguousarray(self.features[kind].numpy(), "<f4").data)
        return found.hexdigest()[:16]


class Found(NamedTuple):
    """The best K rows for each query, best first: scores (Q, K) float32, -inf where nothing is left, and rows (Q, K)
    int64, -1 there."""

    scores: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Unit:
    """Consecutive parts of a pool. ``first`` is the pool's row that its row 0 is."""

    pool: Pool
    parts: tuple[FinishedPart, ...]
    first: int

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def name(self) -> str:
        return f"{self.first:012}"

    @property
    def hash(self) -> str:
        """16 hex digits over its pairs and the weights of their features."""
        facts = self.pool.manifest.made_by
        text = json.dumps([*facts, *([part.name, part.rows, part.hash] for part in self.parts)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def features(self, rows: np.ndarray, kinds: Sequence[str]) -> dict[str, np.ndarray]:
        """Features (len(rows), D) at ``rows`` of the unit, which must be sorted."""
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        first = 0
        for part in self.parts:
            inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + part.rows)] - first
            if len(inside):
                for kind in kinds:
                    found[kind].append(self.pool.features(part, kind)[inside])
            first += part.rows
        return {kind: np.concatenate(arrays) for kind, arrays in found.items()}


def units(pool: Pool, rows: int = UNIT_ROWS) -> list[Unit]:
    """The pool in units of at most ``rows`` rows, or of one part."""
    found: list[Unit] = []
    parts: list[FinishedPart] = []
    first = end = 0
    for part in pool.manifest.parts:
        if parts and end - first + part.rows > rows:
            found.append(Unit(pool, tuple(parts), first))
            parts, first = [], end
        parts.append(part)
        end += part.rows
    return [*found, Unit(pool, tuple(parts), first)]


def search(pool: Pool, queries: Queries, k: int, device: torch.device | str = "cpu") -> Found:
    """The best ``k`` rows of the whole pool, in this process."""
    return merge(((unit.first, search_unit(unit, queries, k, device)) for unit in units(pool)), k)


def search_unit(unit: Unit, queries: Queries, k: int, device: torch.device | str = "cpu") -> Found:
    """The best ``k`` rows of a unit for each query, every pair being compared; of equal ones the lower rows.

    Args:
        unit: where to look; rows are counted within it.
        queries: Q queries.
        k: rows for each query.
        device: where torch compares.
    """
    candidates = min(len(unit), k + _SPARE)
    shape = len(queries), candidates
    if not candidates:
        return _cut(Found(torch.zeros(shape), torch.zeros(shape, dtype=torch.long)), k)
    near = _nearest(unit, queries, candidates, device)
    parts = []
    for start in range(0, len(queries), QUERIES):
        at = slice(start, start + QUERIES)
        block = _part(queries, at)
        exact = _cut(_rescored(unit, block, near.rows[at]), k)
        # whether a row that is no candidate could be as good as the last one that is taken
        open_Q = (exact.scores[:, -1] <= near.scores[at, -1] + 3 * _STEP) & (candidates < len(unit))
        if open_Q.any():
            again = _exhaustive(unit, _part(block, open_Q), k)
            exact.scores[open_Q], exact.rows[open_Q] = again
        parts.append(exact)
    return Found(*map(torch.cat, zip(*parts, strict=True)))


def merge(parts: Iterable[tuple[int, Found]], k: int) -> Found:
    """The best ``k`` of what was found in units, in any order; each comes with the pool's row that its row 0 is."""
    best: Found | None = None
    for first, found in parts:
        rows = torch.where(found.rows < 0, -1, found.rows + first)
        both = [Found(found.scores, rows), *([best] if best else [])]
        best = _cut(Found(*(torch.cat(columns, dim=1) for columns in zip(*both, strict=True))), k)
    assert best is not None
    return best


def distinct(found: Found, features: Callable[[np.ndarray], np.ndarray], k: int, cosine: float) -> Found:
    """The best ``k`` rows of each query of which no image has a cosine above ``cosine`` with one before it.

    Args:
        found: more candidates than ``k``, best first.
        features: sorted rows of the pool -> image features (rows, D).
        k: rows for each query.
        cosine: above it two images count as the same.
    """
    scores, rows = found.scores.new_full((len(found.rows), k), -math.inf), found.rows.new_full((len(found.rows), k), -1)
    for start in range(0, len(rows), _BLOCK):
        block = found.rows[start : start + _BLOCK]
        needed, place = np.unique(block[block >= 0].numpy(), return_inverse=True)
        images = torch.from_numpy(np.asarray(features(needed), np.float32)) if len(needed) else torch.empty(0, 0)
        place_QL = torch.full(block.shape, -1)
        place_QL[block >= 0] = torch.from_numpy(place.reshape(-1))
        for q, place_L in enumerate(place_QL, start=start):
            there = place_L[place_L >= 0]  # they stand in front
            like_LL = images[there] @ images[there].T
            kept: list[int] = []
            for i in range(len(there)):
                if len(kept) < k and not (like_LL[i, kept] > cosine).any():
                    kept.append(i)
            scores[q, : len(kept)], rows[q, : len(kept)] = found.scores[q, kept], found.rows[q, kept]
    return Found(scores, rows)


def _part(queries: Queries, at: slice | Tensor) -> Queries:
    return Queries({kind: x[at] for kind, x in queries.features.items()}, queries.wanted, queries.near_duplicate)


def _nearest(unit: Unit, queries: Queries, k: int, device: torch.device | str) -> Found:
    """The best ``k`` in float32. Near-duplicates are left out with a little room, for the exact look afterwards."""
    kinds, wanted, near = queries.kinds, queries.wanted, queries.near_duplicate
    blocks = {kind: queries.features[kind].to(device, torch.float32).split(QUERIES) for kind in kinds}
    shape = len(queries), k
    nothing = torch.full(shape, -math.inf, device=device), torch.full(shape, -1, device=device)
    best = [Found(*block) for block in zip(*(tensor.split(QUERIES) for tensor in nothing), strict=True)]
    # Written over and over: fresh memory for every product would cost a quarter of the time.
    buffers = {kind: torch.empty(QUERIES * CHUNK, device=device) for kind in kinds}
    with torch.inference_mode():
        for first, arrays in unit.pool.chunks(kinds, CHUNK, unit.parts):
            chunk = {kind: torch.from_numpy(array).to(device).float() for kind, array in arrays.items()}
            for i, before in enumerate(best):
                cosine = {kind: _product(blocks[kind][i], chunk[kind], buffers[kind]) for kind in kinds}
                *others, last = wanted
                score_QN = cosine[last]  # of "image" and "text" the text's: the image's are still needed
                for kind in others:
                    score_QN.add_(cosine[kind]).div_(len(wanted))
                if near is not None:
                    score_QN.masked_fill_(cosine["image"] > near + 3 * _STEP, -math.inf)
                score_QK, at_QK = _top(score_QN, k)
                score_QL, row_QL = (
                    torch.cat(pair, dim=1) for pair in zip(before, (score_QK, at_QK + first), strict=True)
                )
                score_QK, at_QK = score_QL.topk(k, dim=1)
                best[i] = Found(score_QK, row_QL.gather(1, at_QK))
    return Found(*(torch.cat(column).cpu().clone() for column in zip(*best, strict=True)))


def _rescored(unit: Unit, queries: Queries, row_QL: Tensor) -> Found:
    """Candidates with their scores in float64, rounded; -inf for near-duplicates."""
    rows, place = np.unique(row_QL.clamp(min=0).numpy(), return_inverse=True)
    features = unit.features(rows, queries.kinds)
    place_QL = place.reshape(row_QL.shape)
    cosines: dict[str, np.ndarray] = {}
    for kind in queries.kinds:
        query_QD, pair_ND = queries.features[kind].double().numpy(), features[kind].astype(np.float64)
        cosines[kind] = np.stack([(pair_ND[column] * query_QD).sum(axis=1) for column in place_QL.T], axis=1)
    return Found(_scores(queries, cosines).masked_fill(row_QL < 0, -math.inf), row_QL)


def _scores(queries: Queries, cosines: Mapping[str, np.ndarray]) -> Tensor:
    """Float64 cosines (Q, L) by kind -> scores (Q, L): multiples of the step, near-duplicates left out."""
    mean_QL = np.mean([cosines[kind] for kind in queries.wanted], axis=0)
    scores = torch.from_numpy(np.round(mean_QL / _STEP) * _STEP)
    if queries.near_duplicate is not None:
        scores.masked_fill_(torch.from_numpy(cosines["image"] > queries.near_duplicate), -math.inf)
    return scores.float()


def _exhaustive(unit: Unit, queries: Queries, k: int) -> Found:
    """As ``search_unit``, all in float64: for queries with more equals than there are candidates."""
    query = {kind: queries.features[kind].double().numpy() for kind in queries.kinds}

    def parts() -> Iterator[tuple[int, Found]]:
        for first, arrays in unit.pool.chunks(queries.kinds, CHUNK, unit.parts):
            cosines = {kind: query[kind] @ array.astype(np.float64).T for kind, array in arrays.items()}
            scores = _scores(queries, cosines)
            rows = torch.arange(scores.shape[1]).expand(len(queries), -1)
            yield first, _cut(Found(scores, rows), k)

    return merge(parts(), k)


def _cut(found: Found, k: int) -> Found:
    """The best ``k`` by score, of equal ones the lower rows; filled up where there are fewer."""
    scores, rows = found.scores, torch.where(torch.isfinite(found.scores), found.rows, -1)
    if (missing := k - scores.shape[1]) > 0:
        scores = torch.cat([scores, scores.new_full((len(scores), missing), -math.inf)], dim=1)
        rows = torch.cat([rows, rows.new_full((len(rows), missing), -1)], dim=1)
    by_row = rows.argsort(dim=1, stable=True)
    by_score = scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
    at = by_row.gather(1, by_score)[:, :k]
    return Found(scores.gather(1, at), rows.gather(1, at))


def _product(query_QD: Tensor, pool_ND: Tensor, buffer: Tensor) -> Tensor:
    shape = len(query_QD), len(pool_ND)
    return torch.mm(query_QD, pool_ND.T, out=buffer[: shape[0] * shape[1]].view(shape))


def _top(score_QN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``score_QN.topk(k)``, several times as fast: the best k lie in the k blocks with the highest maxima."""
    queries, rows = score_QN.shape
    blocks = rows // _BLOCK
    if blocks <= k:
        return score_QN.topk(min(k, rows), dim=1)
    whole = blocks * _BLOCK
    maxima_QM = score_QN[:, :whole].view(queries, blocks, _BLOCK).amax(dim=2)
    chosen_QK = maxima_QM.topk(k, dim=1).indices
    place_QL = (chosen_QK[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=score_QN.device)).flatten(1)
    rest_QL = torch.arange(whole, rows, device=score_QN.device).expand(queries, -1)
    place_QL = torch.cat([place_QL, rest_QL], dim=1)
    scores, at = score_QN.gather(1, place_QL).topk(k, dim=1)
    return scores, place_QL.gather(1, at)
