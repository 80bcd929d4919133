"""From a pool to the pairs that are nearest to fine-tune images, and the random pairs that they are compared with.

Shapes: Q fine-tune images, N pairs of the pool, K wanted, D feature width.
"""

from __future__ import annotations

import importlib
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadyclip.anchors.captions import Captions
from steadyclip.anchors.pairs import Anchors, Pair, write_anchors
from steadyclip.anchors.pool import KINDS, Pool
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.progress import Progress
from steadyclip.models.features import evaluating, image_features

if TYPE_CHECKING:
    from steadyclip.data import ImageSet
    from steadyclip.models import DualEncoder

Query = Literal["image", "text", "both"]
Engine = Literal["auto", "torch", "faiss"]

_Hits = dict[int, list[tuple[str, int, float]]]
"""Row of the pool -> for which images it was found: key, rank and similarity."""

# Pairs and images that are compared at once: their scores stay in the processor's cache and memory small.
_CHUNK, _QUERIES, _BLOCK = 16_384, 1024, 64
# faiss: pairs up to which it compares all, cells that it looks into above, and candidates beyond k for near-duplicates.
_FLAT_ROWS, _PROBES, _SPARE = 1_000_000, 64, 64


class Found(NamedTuple):
    """The best K rows for Q queries: scores float32, best first, -inf where nothing is left, and rows int64."""

    score_QK: Tensor
    row_QK: Tensor


def retrieve(
    model: DualEncoder,
    pool: Pool,
    images: ImageSet,
    out: str | Path,
    *,
    query: Query = "image",
    captions: Captions | None = None,
    k: int = 1,
    near_duplicate: float | None = 0.95,
    engine: Engine = "auto",
    source: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Anchors:
    """Write an anchor file: for each image of ``images`` the ``k`` nearest pairs of ``pool`` under the frozen model.

    Args:
        model: the pretrained model that the pool was embedded with.
        pool: where to look.
        images: the fine-tune images; those that cannot be read get no pairs.
        out: the anchor file.
        query: "image" compares images; "text" the image's caption with the pairs' texts; "both" takes the mean of the
            two cosines, so the order of their sum.
        captions: for "text" and "both".
        k: pairs for each image.
        near_duplicate: leave out pairs whose image has a larger cosine with the image's; None leaves none out.
        engine: "torch", or "auto", compares every pair; "faiss" (package faiss-cpu) searches an index.
        source: folder that the pool's sources have been moved to.
        batch_size: images in a forward pass.
        workers: processes that decode images.
        progress: called with images done and all.

    Raises:
        DataError: the pool is of other weights, an image has no caption, or no pair is left.
        UsageError: a wrong ``k``, or a query that needs captions without any.
    """
    if not 1 <= k <= len(pool):
        raise UsageError(f"k must be between 1 and the {len(pool)} pairs of the pool, not {k}.")
    wanted = ("image", "text") if query == "both" else (query,)
    if query == "image":
        captions = None
    elif captions is None:
        raise UsageError(f"a query by {query} needs captions: make them with `steadyclip anchors caption`.")
    pool.check(model)
    if captions:
        captions.check(images)
    found = image_features(model, images, batch_size=batch_size, workers=workers, frozen=True, progress=progress)
    features = {"image": found.features_ND}
    if captions:
        texts = [captions.texts[key] for key in found.keys]
        with evaluating(model), model.frozen():
            parts = [model.encode_text(texts[first : first + 256]) for first in range(0, len(texts), 256)]
            features["text"] = torch.cat(parts).cpu()
    if engine == "faiss":
        score_QK, row_QK = faiss_rows(pool, features, wanted, k, near_duplicate)
    else:
        engine = "torch"
        score_QK, row_QK = nearest_rows(pool, features, wanted, k, near_duplicate, model.device)
    about = {
        "pool": pool.hash, "weights": model.weights_hash, "model": model.name, "query": query, "k": k,
        "near_duplicate": near_duplicate, "engine": engine, "images": images.name, "set": images.hash,
    }  # fmt: skip
    hits: _Hits = defaultdict(list)
    for key, scores, rows in zip(found.keys, score_QK.tolist(), row_QK.tolist(), strict=True):
        for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1):
            if math.isfinite(score):
                hits[row].append((key, rank, score))
    if not hits:
        raise DataError(
            f"every pair of the pool is a near-duplicate of every image (cosine above {near_duplicate}): "
            "raise the threshold, or choose another pool."
        )
    digests = dict(zip(images.keys, images.digests, strict=True))
    return write_anchors(out, _filled(pool, hits, digests, source), about)


def nearest_rows(
    pool: Pool,
    features: Mapping[str, Tensor],
    wanted: Sequence[str],
    k: int,
    near_duplicate: float | None = None,
    device: torch.device | str = "cpu",
) -> Found:
    """The best ``k`` rows of the pool for each query; every pair is compared.

    Args:
        pool: N pairs.
        features: (Q, D) of length 1 by kind: "image" where near-duplicates are left out, and what is ``wanted``.
        wanted: kinds whose mean cosine is compared.
        k: rows for each query.
        near_duplicate: cosine of the images above which a row is left out.
        device: where torch compares.
    """
    kinds = [kind for kind in KINDS if kind in wanted or (kind == "image" and near_duplicate is not None)]
    queries = {kind: features[kind].to(device, torch.float32).split(_QUERIES) for kind in kinds}
    shape = len(features[kinds[0]]), k
    nothing = torch.full(shape, -math.inf, device=device), torch.zeros(shape, dtype=torch.long, device=device)
    best = [Found(*block) for block in zip(*(tensor.split(_QUERIES) for tensor in nothing), strict=True)]
    # Written over and over: fresh memory for every product would cost a quarter of the time.
    buffers = {kind: torch.empty(_QUERIES * _CHUNK, device=device) for kind in kinds}
    with torch.inference_mode():
        for first, arrays in pool.chunks(kinds, _CHUNK):
            chunk = {kind: torch.from_numpy(array).to(device) for kind, array in arrays.items()}
            for i, before in enumerate(best):
                cosine = {kind: _product(queries[kind][i], chunk[kind], buffers[kind]) for kind in kinds}
                score_QN = cosine[wanted[-1]]
                if len(wanted) > 1:
                    score_QN.add_(cosine[wanted[0]]).div_(2)
                if near_duplicate is not None:
                    score_QN.masked_fill_(cosine["image"] > near_duplicate, -math.inf)
                score_QK, at_QK = _top(score_QN, k)
                best[i] = merge([before, Found(score_QK, at_QK + first)], k)
    return Found(*(torch.cat(column).cpu() for column in zip(*best, strict=True)))


def merge(parts: Sequence[Found], k: int) -> Found:
    """The best ``k`` of all that was found."""
    score_QL, row_QL = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    score_QK, at_QK = score_QL.topk(k, dim=1)
    return Found(score_QK, row_QL.gather(1, at_QK))


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


def faiss_rows(
    pool: Pool, features: Mapping[str, Tensor], wanted: Sequence[str], k: int, near_duplicate: float | None = None
) -> Found:
    """As ``nearest_rows``, among the rows of the ``_PROBES`` cells next to each query; features are held in memory.

    Raises:
        DataError: faiss is not installed.
    """
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        raise DataError(
            "faiss is not installed: pip install faiss-cpu, or compare every pair with --engine torch."
        ) from None

    def joined(by_kind: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([by_kind[kind] for kind in wanted], axis=1)

    rows, cells = len(pool), round(4 * math.sqrt(len(pool)))
    kind = "Flat" if rows <= _FLAT_ROWS else f"IVF{cells},Flat"
    index = faiss.index_factory(pool.manifest.width * len(wanted), kind, faiss.METRIC_INNER_PRODUCT)
    if rows > _FLAT_ROWS:
        index.nprobe = _PROBES
        every = max(1, rows // (64 * cells))
        index.train(np.concatenate([joined(chunk)[::every] for _, chunk in pool.chunks(wanted, _CHUNK)]))
    for _, chunk in pool.chunks(wanted, _CHUNK):
        index.add(joined(chunk))
    queries = joined({kind: features[kind].numpy() for kind in wanted}) / len(wanted)
    candidates = min(rows, k + _SPARE * (near_duplicate is not None))
    score_QL, row_QL = (torch.from_numpy(array) for array in index.search(queries, candidates))
    score_QL = score_QL.masked_fill(row_QL < 0, -math.inf)
    if near_duplicate is not None:
        for first, chunk in pool.chunks(("image",), _CHUNK):
            image_ND = torch.from_numpy(chunk["image"])
            query, place = ((row_QL >= first) & (row_QL < first + len(image_ND))).nonzero(as_tuple=True)
            cosine = (image_ND[row_QL[query, place] - first] * features["image"][query]).sum(dim=1)
            score_QL[query, place] = score_QL[query, place].masked_fill(cosine > near_duplicate, -math.inf)
    return merge([Found(score_QL, row_QL)], k)


def random_like(
    anchors: Anchors, pool: Pool, out: str | Path, seed: int = 1, source: str | Path | None = None
) -> Anchors:
    """The control: ``anchors`` with each pair replaced by a random one of ``pool``.

    The same pair is replaced by the same one wherever it occurs, different ones by different ones: amount and repeats
    stay as they were, so that a difference between the two is that of choosing the pairs.

    Raises:
        DataError: the pool has fewer pairs than ``anchors`` has different ones.
    """
    queries, ranks, names = (anchors.table.column(name).to_pylist() for name in ("query", "rank", "pool_key"))
    distinct = list(dict.fromkeys(names))
    if len(distinct) > len(pool):
        different = f"{anchors.path} holds {len(distinct)} different pairs"
        raise DataError(f"{different}, the pool in {pool.path} only {len(pool)}.")
    drawn = dict(zip(distinct, random.Random(seed).sample(range(len(pool)), len(distinct)), strict=True))
    hits: _Hits = defaultdict(list)
    for query, rank, name in zip(queries, ranks, names, strict=True):
        hits[drawn[name]].append((query, rank, math.nan))
    about = {**anchors.about, "query": "random", "seed": seed, "pool": pool.hash, "like": anchors.about}
    return write_anchors(out, _filled(pool, hits, anchors.digests, source), about)


def _filled(pool: Pool, hits: _Hits, digests: Mapping[str, str], source: str | Path | None) -> Iterator[Pair]:
    """The pairs of the hits, in the pool's order, so that every file of its sources is read once."""
    for found in pool.pairs(sorted(hits), source):
        for query, rank, similarity in hits[found.row]:
            yield Pair(query, rank, similarity, found.key, found.text, found.image, digests[query])
