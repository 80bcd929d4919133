"""The output of clip-retrieval as a pool: features and texts are used where they lie, neither copied nor made again.

``img_emb/img_emb_N.npy`` and ``text_emb/text_emb_N.npy`` (float16 of length 1) and ``metadata/metadata_N.parquet``
(``image_path``, ``caption``): https://github.com/rom1504/clip-retrieval, ``clip_inference/writer.py``. They do not say
whose weights made them, so a few pairs are embedded again and compared.

Shapes: N pairs, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from steadyclip.anchors.embedding import embedded, refuse_other_files
from steadyclip.anchors.pool import (
    ADOPTED_COLUMNS,
    KINDS,
    Adopted,
    Features,
    FinishedPart,
    Manifest,
    Pool,
    Sources,
    adopted_part,
)
from steadyclip.anchors.search import Unit
from steadyclip.anchors.sources import Row, noting
from steadyclip.core.errors import DataError, some
from steadyclip.core.files import expanded, file_digest
from steadyclip.core.progress import Progress
from steadyclip.data.decode import quiet
from steadyclip.data.tables import Table
from steadyclip.models import DualEncoder

_FILES = {
    "image.npy": ("img_emb", "npy"), "text.npy": ("text_emb", "npy"), "rows.parquet": ("metadata", "parquet"),
}  # fmt: skip
"""File of a part -> folder (and beginning of the names) and suffix in clip-retrieval's output."""
COMPARED, TRIED, COSINE = 16, 64, 0.999
"""Pairs that are embedded again, how many are tried for that, and the least cosine of both features."""
_LENGTH, _ROWS = 0.01, 16_384
"""How far from 1 a length may be, and rows that are looked at at once."""


def adopt_pool(
    model: DualEncoder,
    folder: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    unchecked: bool = False,
    allow_failed: int = 0,
    workers: int = 4,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> Pool:
    """A pool of the features in ``folder``, which stay there; all of them are read once.

    Args:
        model: whose weights made them.
        folder: what clip-retrieval's ``inference`` wrote.
        out: folder of the pool, for its manifest.
        images: folder in which the paths of the images begin; by default ``folder``. Absolute paths need none.
        unchecked: do not embed ``COMPARED`` pairs again; the manifest says so.
        allow_failed: parts that may be missing or damaged; the pool goes without them.
        workers: threads that decode images.
        progress: called with pairs done and all.
        log: takes lines for people.

    Raises:
        DataError: no such folders; more parts than allowed are missing, cut off, of other rows in one file than in
            another, of another width than the model's, or hold features that are not finite or not of length 1; the
            images are not there, or give other features; ``out`` holds something else.
    """
    folder, out = expanded(folder).absolute(), Path(out)
    root = folder if images is None else expanded(images).absolute()
    for place in (folder, root):
        if not place.is_dir():
            raise DataError(f"{place}: there is no such folder.")
    before = Manifest.read(out)
    if before is None:
        refuse_other_files(out)
    elif before.adopted is None:
        raise DataError(f"{out} holds a pool that was embedded: name another folder.")
    parts, failed = _parts(folder, model.embed_dim)
    _refuse(failed, allow_failed if parts else 0)
    if not parts:
        raise DataError(f"{folder} holds no pairs.")
    if len({part.features for part in parts}) > 1:
        raise DataError(f"{folder} holds float32 in some parts and float16 in others: make them again in one way.")
    adopted = Adopted(str(folder), str(root), 0, 0.0)
    manifest = Manifest(
        model.name, model.weights_hash, repr(model.preprocess), model.embed_dim, 0,
        Sources({}, ADOPTED_COLUMNS[1], 0), [part.about for part in parts], features=parts[0].features, adopted=adopted,
    )  # fmt: skip
    if not unchecked:  # before much is read
        manifest.adopted = _compared(Pool(out, manifest), model, workers, adopted)
    manifest.parts, blank, done = [], 0, 0
    total = sum(part.about.rows for part in parts)
    for part in parts:
        with noting(part.about.name, failed):
            blank += _whole(part.about)
            manifest.parts.append(part.about)
        done += part.about.rows
        if progress:
            progress(done, total)
    _refuse(failed, allow_failed if manifest.parts else 0)
    if blank:
        log(f"{blank} of {total} pairs have no caption: they are in the pool with an empty text")
    if failed:
        log(f"{len(failed)} parts are missing or damaged, and left out: {some(list(failed))}")
    manifest.failed = failed
    manifest.write(out)
    return Pool.open(out)


class _Found(NamedTuple):
    """A part, and how its features are stored."""

    about: FinishedPart
    features: Features


def _refuse(failed: dict[str, str], allowed: int) -> None:
    if len(failed) > allowed:
        more = f"{len(failed)} parts cannot be used. " if len(failed) > 1 else ""
        reason = next(iter(failed.values())).rstrip(".")
        raise DataError(f"{more}{reason}. Make it again, or go without: --allow-failed {len(failed)}.")


def _parts(folder: Path, width: int) -> tuple[list[_Found], dict[str, str]]:
    """The parts by their headers, and what is wrong with others."""
    files: dict[int, dict[str, Path]] = {}
    for name, (kind, suffix) in _FILES.items():
        place = folder / kind
        if not place.is_dir():
            raise DataError(
                f"{place}: there is no such folder. Name what `clip-retrieval inference --enable_text True "
                "--enable_metadata False` wrote: it has img_emb, text_emb and metadata."
            )
        for path in sorted(place.iterdir()):
            match = re.fullmatch(rf"{kind}_(\d{{1,7}})\.{suffix}", path.name)
            if match and files.setdefault(int(match[1]), {}).setdefault(name, path) != path:
                raise DataError(f"{path} and {files[int(match[1])][name].name} have the same number: remove one.")
    parts, failed = [], dict[str, str]()
    digits = max((len(path.stem.rpartition("_")[2]) for found in files.values() for path in found.values()), default=1)
    for number in range(max(files, default=-1) + 1):
        with noting(f"{number:0{digits}}", failed):
            there = files.get(number, {})
            for name, (kind, suffix) in _FILES.items():
                if name not in there:
                    missing = folder / kind / f"{kind}_{number:0{digits}}.{suffix}"
                    raise DataError(f"{missing}: there is no such file, but there are other parts.")
            parts.append(_part(f"{number:0{digits}}", there, width))
    return [part for part in parts if part.about.rows], failed


def _part(name: str, files: dict[str, Path], width: int) -> _Found:
    """A part whose files fit together. Raises DataError where they do not."""
    table = Table.open(files["rows.parquet"])
    table.need(*ADOPTED_COLUMNS, remedy="Images and texts are both needed.", what="metadata of clip-retrieval")
    rows, kinds = len(table), set[str]()
    for kind in KINDS:
        file = files[f"{kind}.npy"]
        try:
            array = np.load(file, mmap_mode="r" if rows else None)
        except Exception as error:  # as in Pool.features
            raise DataError(f"{file} cannot be read ({error}).") from None
        if array.ndim != 2 or len(array) != rows:
            raise DataError(f"{file} has the shape {array.shape}, but {table.path.name} has {rows} rows.")
        if rows and array.shape[1] != width:
            raise DataError(f"{file} has features of width {array.shape[1]}, those of the model have {width}.")
        kinds.add(str(array.dtype))
    if len(kinds) > 1 or not kinds <= {*get_args(Features)}:
        raise DataError(f"{files['image.npy']} and its text_emb hold {' and '.join(sorted(kinds))}: float16 is needed.")
    stored: Any = kinds.pop()
    return _Found(FinishedPart(name, "", rows, "", [], files={k: str(path) for k, path in files.items()}), stored)


def _whole(about: FinishedPart) -> int:
    """See that all features are sound, and note what is in the files; returns the number of empty texts."""
    import pyarrow as pa

    for kind in KINDS:
        array_ND = np.load(about.files[f"{kind}.npy"], mmap_mode="r")
        for first in range(0, about.rows, _ROWS):
            length_N = np.linalg.norm(array_ND[first : first + _ROWS].astype(np.float32), axis=1)
            wrong = np.flatnonzero(~(np.abs(length_N - 1) <= _LENGTH))  # NaN is wrong too
            if len(wrong):
                length = length_N[wrong[0]]
                what = f"the length {length:.3g}, not 1" if np.isfinite(length) else "values that are no finite numbers"
                raise DataError(f"{about.files[f'{kind}.npy']} row {first + wrong[0]} (from 0) has {what}.")
    texts = Table.open(Path(about.files["rows.parquet"])).arrow(ADOPTED_COLUMNS[1:]).column(0)
    if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
        raise DataError(f"{about.files['rows.parquet']}: caption is of the type {texts.type}; texts are needed.")
    about.sums = {name: file_digest(Path(path)) for name, path in about.files.items()}
    about.hash = hashlib.sha256(json.dumps(sorted(about.sums.items())).encode()).hexdigest()[:16]
    return sum(not (text and text.strip()) for text in texts.to_pylist())


def _compared(pool: Pool, model: DualEncoder, workers: int, adopted: Adopted) -> Adopted:
    """Embed some pairs again. Raises DataError where their features are others, or images are not there."""
    spread = np.unique(np.linspace(0, len(pool) - 1, min(TRIED, len(pool))).astype(int)).tolist()
    order = [row for first in range(4) for row in spread[first::4]]  # those far from each other first
    needed, whole = min(COMPARED, len(pool)), Unit(pool, tuple(pool.manifest.parts), 0)
    cosines: dict[str, list[float]] = {kind: [] for kind in KINDS}
    keys, refused = list[str](), ""
    with torch.inference_mode(), model.frozen(), quiet():
        for first in range(0, len(order), needed):
            rows = _rows(pool, sorted(order[first : first + needed]), Path(adopted.images))
            for pairs, _, made in embedded(model, rows, needed, workers):
                refused = refused or next((f"{p['key']}: {p['reason']}" for p in pairs if "reason" in p), "")
                there = [pair for pair in pairs if "reason" not in pair]
                keys += [pair["key"] for pair in there]
                for kind, feature_ND in zip(KINDS, made, strict=False):  # none where no pair is left
                    stored_ND = whole.features(np.array([pair["place"] for pair in there]), [kind])[kind]
                    cosines[kind] += (stored_ND.astype(np.float32) * feature_ND.cpu().numpy()).sum(axis=1).tolist()
            if len(keys) >= needed:
                break
    if len(keys) < needed:
        raise DataError(
            f"{len(keys)} of {len(order)} pairs that were tried can be embedded again, and {needed} are to be compared "
            f"({refused}): name the folder in which the paths of the images begin with --images, or do not compare, "
            "with --unchecked."
        )
    # What is not finite is for the look at all rows, which says where. Odd characters are cleaned in several ways, so
    # that single texts may differ.
    images = [(cosine, f"the image {key}") for cosine, key in zip(cosines["image"], keys, strict=True)]
    lowest = min((pair for pair in images if math.isfinite(pair[0])), default=(1.0, ""))
    texts = statistics.median([cosine for cosine in cosines["text"] if math.isfinite(cosine)] or [1.0])
    cosine, what = lowest if lowest[0] <= COSINE else (texts, "half of the texts")
    if cosine <= COSINE:
        raise DataError(
            f"{adopted.folder} was made by other weights than those of {model.name}, or with another image transform: "
            f"embedded again, {what} has the cosine {cosine:.4f} with what is stored, and it must be above {COSINE}. "
            "Name its model with --model, or embed the pairs with `steadyclip anchors embed`."
        )
    return Adopted(adopted.folder, adopted.images, len(keys), round(lowest[0], 6))


def _rows(pool: Pool, rows: Sequence[int], images: Path) -> Iterator[Row]:
    """The pairs at ``rows`` of the pool, which is their place."""
    for row in rows:
        first = 0
        for part in pool.manifest.parts:
            if row < first + part.rows:
                yield next(adopted_part(part, images).rows(row - first))._replace(place=row)
                break
            first += part.rows
