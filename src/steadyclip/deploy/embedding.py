"""``embed`` and ``search``: features of many images on disk, in the layout of clip-retrieval, and the nearest of them.

E/img_emb/img_emb_0.npy (rows of length 1), E/metadata/metadata_0.parquet (column ``image_path``), E/embedding.json.

Shapes: N images of a shard, D feature width.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from steadyclip.anchors.journal import Journal
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import file_digest, owning, replacing, writing
from steadyclip.core.progress import Progress
from steadyclip.core.schema import Document
from steadyclip.data.tables import Table
from steadyclip.evaluation.records import Skipped

if TYPE_CHECKING:
    from steadyclip.deploy.predictor import Predictor

ABOUT = "embedding.json"
ROWS = 100_000
"""Rows of a shard."""
_AT_ONCE = 65_536


class Embedding(Document, frozen=True, kw_only=True):
    """What a folder of features was made of.

    Attributes:
        source: the model, as it was named.
        weights: hash of it.
        dim: D.
        images: those that could be read.
        listed: hash of the paths that were named, in their order.
        files: digest of each file of features and of paths; none before it is finished.
        finished: every image has been looked at.
    """

    SCHEMA: ClassVar[int] = 1
    KIND: ClassVar[str] = "embedding"
    SPELLED: ClassVar[str] = "a folder of features"
    REDO: ClassVar[str] = "embed again into another folder"

    schema: Literal[1] = 1
    kind: Literal["embedding"] = "embedding"
    source: str
    weights: str
    dim: int
    dtype: str
    rows: int
    listed: str
    images: int = 0
    skipped: Skipped = ()
    files: dict[str, str] = msgspec.field(default_factory=dict)
    finished: bool = False


class Found(NamedTuple):
    """An image that was found, and its cosine with the query."""

    score: float
    path: str


def embed_folder(
    predictor: Predictor,
    source: str,
    paths: Sequence[str],
    out: Path,
    *,
    half: bool = False,
    rows: int = ROWS,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Embedding:
    """Write the features of the images ``paths`` into the folder ``out``; the same call again goes on.

    Args:
        source: what the predictor was made of, for ``search``.
        half: float16 instead of float32.
        rows: of a shard.

    Raises:
        DataError: the folder has features of another model or of other images, or no image can be read.
        SteadyClipError: another process writes it, or it cannot be written.
    """
    listed = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]
    dtype = np.dtype(np.float16 if half else np.float32)
    dim = predictor.dim
    about = Embedding(
        source=source, weights=predictor.engine.weights, dim=dim, dtype=dtype.name, rows=rows, listed=listed
    )
    with owning(out / ".lock", leave=False) as owner:
        if owner is not None:
            raise DataError(f"{out} is being written by {owner}: wait for it, or name another folder.")
        if (out / ABOUT).is_file():
            there = Embedding.read(out / ABOUT)
            for field, what in (
                ("weights", "another model"), ("listed", "other images"), ("dtype", "another precision"),
                ("rows", "other shards"),
            ):  # fmt: skip
                if getattr(there, field) != getattr(about, field):
                    raise DataError(f"{out} holds features of {what}: name another --out.")
            if there.finished:
                return there
        about.write(out / ABOUT)
        skipped: list[tuple[str, str]] = []
        files: dict[str, str] = {}
        images = 0
        for number, start in enumerate(range(0, len(paths), rows)):
            part = paths[start : start + rows]
            shard = _Shard(out, number, dim, dtype)
            with writing(out):
                found, left = shard.write(predictor, part, batch_size, workers, start, len(paths), progress)
            images += found
            skipped += left
            files |= {path.relative_to(out).as_posix(): file_digest(path) for path in (shard.features, shard.metadata)}
        if not images:
            raise DataError(
                f"none of the {len(paths)} images can be read, for instance {skipped[0][0]}: {skipped[0][1]}."
            )
        about = replace(about, images=images, skipped=tuple(skipped), files=files, finished=True)
        about.write(out / ABOUT)
    return about


class _Shard:
    """One shard, and what is there of it while it is being written: raw rows, and a line for each batch."""

    def __init__(self, out: Path, number: int, dim: int, dtype: np.dtype) -> None:
        self.features = out / "img_emb" / f"img_emb_{number}.npy"
        self.metadata = out / "metadata" / f"metadata_{number}.parquet"
        self.raw, lines = (path.with_name(f".{path.stem}.unfinished") for path in (self.features, self.metadata))
        self.lines = Journal(lines, list[tuple[str, str]])
        self.skipped = self.metadata.with_name(f"skipped_{number}.json")
        self.dim, self.dtype = dim, dtype

    def write(
        self, predictor: Predictor, paths: Sequence[str], batch_size: int, workers: int, before: int, total: int,
        progress: Progress | None,
    ) -> tuple[int, list[tuple[str, str]]]:  # fmt: skip
        """How many images are in it, and those that are not, with reasons."""
        left = self._left_out()
        if left is not None and self.features.is_file() and self.metadata.is_file():
            self._clear()
            return len(paths) - len(left), left
        for path in (self.features, self.metadata):
            path.parent.mkdir(parents=True, exist_ok=True)
        done = self._done(paths)
        to_do = [path for path in paths if path not in done]
        size = self.dim * self.dtype.itemsize
        with self.raw.open("ab") as raw:
            found = predictor.stream_features(((path, path) for path in to_do), batch_size, workers)
            batch: list[tuple[str, str]] = []
            for number, (path, row) in enumerate(found, start=1):
                reason = row if isinstance(row, str) else ""
                if not isinstance(row, str):
                    raw.write(row.astype(self.dtype).tobytes())
                batch.append((path, reason))
                if len(batch) == batch_size or number == len(to_do):
                    raw.flush()
                    self.lines.append(batch)  # after the rows: a line stands for what is there
                    batch = []
                if progress:
                    progress(before + len(done) + number, total)
        done = self._done(paths)
        kept = [path for path in paths if not done[path]]
        rows_ND = np.frombuffer(self.raw.read_bytes()[: len(kept) * size], self.dtype).reshape(-1, self.dim)
        with replacing(self.features) as temporary, temporary.open("wb") as file:
            np.save(file, rows_ND)
        self._write_table(kept)
        skipped = [(path, reason) for path, reason in done.items() if reason]
        with replacing(self.skipped) as temporary:
            temporary.write_text(json.dumps(skipped, ensure_ascii=False), encoding="utf-8")
        self._clear()
        return len(kept), skipped

    def _clear(self) -> None:
        for path in (self.raw, self.lines.path):
            path.unlink(missing_ok=True)

    def _left_out(self) -> list[tuple[str, str]] | None:
        """What a finished shard left out, with reasons; None if it is not finished, or that cannot be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return [(path, reason) for path, reason in json.loads(self.skipped.read_text(encoding="utf-8"))]
        return None

    def _done(self, paths: Sequence[str]) -> dict[str, str]:
        """What has been looked at: path -> reason why it cannot be read, or "". A torn end is cut off, and a batch that
        was not finished: in other batches features differ in their last digits."""
        done = dict(pair for batch in self.lines for pair in batch)
        size = sum(not reason for reason in done.values()) * self.dim * self.dtype.itemsize
        if not self.raw.is_file() or self.raw.stat().st_size < size:  # rows were lost
            self._clear()
            return {}
        with self.raw.open("rb+") as file:
            file.truncate(size)
        return done

    def _write_table(self, paths: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        with replacing(self.metadata) as temporary:
            parquet.write_table(pa.table({"image_path": pa.array(paths, pa.string())}), temporary)


def open_embedding(folder: Path) -> Embedding:
    """What a folder of features is. Raises DataError where it is none, or not finished."""
    about = Embedding.read(folder / ABOUT)
    if not about.finished:
        raise DataError(f"{folder} is not finished: give its `steadyclip embed` command again to go on.")
    return about


def search(folder: Path, query_D: np.ndarray, weights: str, top: int = 20) -> list[Found]:
    """The images with the largest cosine with ``query_D``, by comparing all of them; equals in their order.

    Args:
        weights: hash of the model that made the query.

    Raises:
        DataError: the features are of another model, or not finished.
        UsageError: ``top`` below 1.
    """
    if top < 1:
        raise UsageError(f"--top must be 1 or more, not {top}.")
    about = open_embedding(folder)
    if about.weights != weights:
        raise DataError(
            f"{folder} was made by another model ({about.source}, {about.weights}; here {weights}): features of "
            "different models cannot be compared."
        )
    best: list[tuple[float, int, int]] = []  # cosine, shard, row
    for number, rows_ND in _shards(folder, about):
        for start in range(0, len(rows_ND), _AT_ONCE):
            cosine_N = np.asarray(rows_ND[start : start + _AT_ONCE], np.float32) @ query_D
            order = np.argsort(-cosine_N, kind="stable")[:top].tolist()
            best += [(-float(cosine_N[i]), number, start + i) for i in order]
        best = sorted(best)[:top]
    tables = {number: _paths(folder, about, number) for number in {number for _, number, _ in best}}
    return [Found(-negative, tables[number][row]) for negative, number, row in best]


def _shards(folder: Path, about: Embedding) -> Iterator[tuple[int, np.ndarray]]:
    number = 0
    while (path := folder / "img_emb" / f"img_emb_{number}.npy").is_file() or f"img_emb/{path.name}" in about.files:
        _see(path, folder, about)
        yield number, np.load(path, mmap_mode="r", allow_pickle=False)
        number += 1


def _paths(folder: Path, about: Embedding, number: int) -> list[str]:
    path = folder / "metadata" / f"metadata_{number}.parquet"
    _see(path, folder, about)
    return Table.open(path).arrow(["image_path"])["image_path"].to_pylist()


def _see(path: Path, folder: Path, about: Embedding) -> None:
    """Raises DataError where ``path`` is not as it was written. (Version 1.0 kept no digests.)"""
    try:
        good = not about.files or file_digest(path) == about.files.get(path.relative_to(folder).as_posix())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    if not good:
        raise DataError(f"{path} was changed or damaged: embed again into another folder.")
