"""From a pool to the pairs that are nearest to fine-tune images, and the random pairs that they are compared with.

Shapes: Q fine-tune images, N pairs of the pool, K wanted, D feature width.
"""

from __future__ import annotations

import importlib
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from steadyclip.anchors.captions import Captions
from steadyclip.anchors.engines import How, spread
from steadyclip.anchors.finding import find, is_made, parts_folder
from steadyclip.anchors.pairs import Anchors, Pair, read_anchors, write_anchors
from steadyclip.anchors.pool import Pool
from steadyclip.anchors.search import CHUNK, UNIT_ROWS, Found, Queries
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import owning
from steadyclip.core.precision import arithmetic
from steadyclip.core.progress import Progress
from steadyclip.models.features import evaluating, image_features

if TYPE_CHECKING:
    from steadyclip.data import ImageSet
    from steadyclip.models import DualEncoder

Query = Literal["image", "text", "both"]
Search = Literal["exact", "faiss"]

_Hits = dict[int, list[tuple[str, int, float]]]
"""Row of the pool -> for which images it was found: key, rank and similarity."""

# faiss: pairs up to which it compares all, cells that it looks into above, and candidates beyond k for near-duplicates.
_FLAT_ROWS, _PROBES, _SPARE = 1_000_000, 64, 64


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
    distinct: float | None = None,
    spare: int | None = None,
    search: Search = "exact",
    how: How | None = None,
    unit_rows: int = UNIT_ROWS,
    source: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
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
        distinct: leave out pairs whose image has a larger cosine with that of a better pair; None leaves none out.
        spare: candidates beyond ``k`` for that; by default as many again, and at least 8.
        search: "exact" compares every pair; "faiss" (package faiss-cpu) searches an index.
        how: who does the exact search, and on how many processes; by default this one.
        unit_rows: pairs that are searched at a time, each with a result of its own.
        source: folder that the pool's sources have been moved to.
        batch_size: images in a forward pass.
        workers: processes that decode images.
        progress: called with images done and all.
        log: takes lines for people.

    Raises:
        DataError: the pool is of other weights, an image has no caption, no pair is left, or a part of the pool could
            not be searched.
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
    precision = pool.manifest.precision  # as the pool's: other arithmetic would be compared with it
    found = image_features(
        model, images, batch_size=batch_size, workers=workers, frozen=True, precision=precision, progress=progress
    )
    features = {"image": found.features_ND}
    if captions:
        texts = [captions.texts[key] for key in found.keys]
        with evaluating(model), model.frozen(), arithmetic(model.device, precision):
            parts = [model.encode_text(texts[first : first + 256]) for first in range(0, len(texts), 256)]
            features["text"] = torch.cat(parts).cpu()
    queries = Queries(features, wanted, near_duplicate, found.keys)
    about = {
        "pool": pool.hash, "weights": model.weights_hash, "model": model.name, "query": query, "k": k,
        "near_duplicate": near_duplicate, "distinct": distinct, "search": search, "images": images.name,
        "set": images.hash, "content": images.content, "queries": queries.hash,
    }  # fmt: skip
    out = Path(out)
    if search == "faiss":
        best: Found | None = faiss_rows(pool, queries, k)
    else:
        best = find(
            pool, queries, k, out, about, how=how, unlike=distinct, spare=spare, unit_rows=unit_rows,
            device=spread(model.device), log=log,
        )  # fmt: skip
    if best is None:  # another process has made it, or this one before it was killed
        _tidy(out)
        return read_anchors(out)
    hits: _Hits = defaultdict(list)
    for key, scores, rows in zip(found.keys, best.scores.tolist(), best.rows.tolist(), strict=True):
        for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1):
            if math.isfinite(score):
                hits[row].append((key, rank, score))
    if not hits:
        raise DataError(
            f"every pair of the pool is a near-duplicate of every image (cosine above {near_duplicate}): "
            "raise the threshold, or choose another pool."
        )
    digests = dict(zip(images.keys, images.digests, strict=True))
    with owning(out.with_name(f"{out.name}.lock"), wait=True, leave=False):  # one of several processes writes it
        made = is_made(out, about)
        anchors = read_anchors(out) if made else write_anchors(out, _filled(pool, hits, digests, source), about)
    _tidy(out)
    return anchors


def _tidy(out: Path) -> None:
    """Remove what is needed only until the anchor file is whole."""
    shutil.rmtree(parts_folder(out), ignore_errors=True)
    for suffix in (".lock", ".owner"):
        out.with_name(f"{out.name}{suffix}").unlink(missing_ok=True)


def faiss_rows(pool: Pool, queries: Queries, k: int) -> Found:
    """The best ``k`` rows among those of the ``_PROBES`` cells next to each query; features are held in memory.

    Raises:
        DataError: faiss is not installed.
    """
    wanted, near_duplicate = queries.wanted, queries.near_duplicate
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        raise DataError(
            "faiss is not installed: pip install faiss-cpu, or compare every pair with --search exact."
        ) from None

    def joined(by_kind: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([by_kind[kind] for kind in wanted], axis=1, dtype=np.float32)

    rows, cells = len(pool), round(4 * math.sqrt(len(pool)))
    kind = "Flat" if rows <= _FLAT_ROWS else f"IVF{cells},Flat"
    index = faiss.index_factory(pool.manifest.width * len(wanted), kind, faiss.METRIC_INNER_PRODUCT)
    if rows > _FLAT_ROWS:
        index.nprobe = _PROBES
        every = max(1, rows // (64 * cells))
        index.train(np.concatenate([joined(chunk)[::every] for _, chunk in pool.chunks(wanted, CHUNK)]))
    for _, chunk in pool.chunks(wanted, CHUNK):
        index.add(joined(chunk))
    vectors = joined({kind: queries.features[kind].numpy() for kind in wanted}) / len(wanted)
    candidates = min(rows, k + _SPARE * (near_duplicate is not None))
    score_QL, row_QL = (torch.from_numpy(array) for array in index.search(vectors, candidates))
    score_QL = score_QL.masked_fill(row_QL < 0, -math.inf)
    if near_duplicate is not None:
        for first, chunk in pool.chunks(("image",), CHUNK):
            image_ND = torch.from_numpy(chunk["image"])
            query, place = ((row_QL >= first) & (row_QL < first + len(image_ND))).nonzero(as_tuple=True)
            cosine = (image_ND[row_QL[query, place] - first] * queries.features["image"][query]).sum(dim=1)
            score_QL[query, place] = score_QL[query, place].masked_fill(cosine > near_duplicate, -math.inf)
    score_QK, at_QK = score_QL.topk(min(k, candidates), dim=1)
    return Found(score_QK, row_QL.gather(1, at_QK))


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
