"""Computes the features of a pool, so that a killed run goes on where it was, and several processes share the work.

A part of the sources is written by one process at a time, which holds its lock. Batches start at the same pairs in
every run, so that the files are the same bytes however often a run was killed and however many processes there were.

Shapes: B pairs in a batch, C channels, H W pixels, D feature width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from steadyclip.anchors.engines import How, run, spread, torchrun
from steadyclip.anchors.journal import Journal
from steadyclip.anchors.pool import KINDS, ROWS, Features, FinishedPart, Manifest, Pool, Sources, digest
from steadyclip.anchors.sources import PART_ROWS, Part, Row, find_parts
from steadyclip.core.errors import DataError, some
from steadyclip.core.files import expanded, file_digest, replacing, text_of_path
from steadyclip.core.precision import AskedPrecision, Precision, arithmetic, best_precision
from steadyclip.core.progress import Progress
from steadyclip.data.content import threads
from steadyclip.data.decode import UnreadableImage, decode, quiet
from steadyclip.data.tables import write_table
from steadyclip.models import DualEncoder, Tokens, load

JOURNAL = "rows.jsonl"
_STORED = {"float32": "<f4", "float16": "<f2"}
"""Numpy's names for features on disk."""
_AHEAD = 3
"""Batches that are being prepared while the model is at work."""


class Batch(msgspec.Struct):
    """A line of a part's journal: ``features`` are (B, D) by kind, of the ``pairs`` without a ``reason``."""

    pairs: list[dict[str, Any]]
    features: dict[str, bytes]


def embed_pool(
    model: DualEncoder,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int = 256,
    text_column: str | None = None,
    part_rows: int = PART_ROWS,
    workers: int = 4,
    features: Features = "float32",
    precision: AskedPrecision = "fp32",
    allow_failed: int = 0,
    how: How | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> Pool:
    """Features of all pairs of ``sources`` under the frozen ``model``; goes on with what is in ``out``.

    Started several times, the processes share the work: each takes parts that nobody works on, and waits for the rest.

    Args:
        model: pretrained; what has been trained in it does not count.
        sources: as for ``find_parts``.
        out: folder of the pool.
        batch_size: pairs in a forward pass.
        text_column: column of the texts.
        part_rows: pairs of a table that a process takes at a time.
        workers: threads that decode images, one at least.
        features: how they are stored; float16 takes half of the room.
        precision: of the forward passes.
        allow_failed: sources or parts that may be missing, damaged or refused; the pool goes without them, but has the
            pairs before the place where a shard is damaged.
        how: who does the parts; by default this process. All others load the model by its name.
        progress: called with pairs done and an estimate of all.
        log: takes one line on each pair that was left out.

    Raises:
        DataError: more sources or parts than allowed cannot be used, ``out`` holds a pool of other sources or weights,
            or no pair can be read.
    """
    out = Path(out)
    _parts.cache_clear()  # sources may have been mended since
    names = tuple(str(expanded(source).absolute()) for source in sources)
    work = EmbeddedParts(
        model.name, model.weights_hash, names, out.absolute(), batch_size, text_column, part_rows, workers,
        features, best_precision(precision, model.device), spread(model.device),
    )  # fmt: skip
    parts, failed = work.parts, dict(work.missing)
    if not parts:
        raise DataError(next(iter(failed.values()), "no source of the pool is named."))
    total = len(parts) + len(failed)
    _refuse(failed, allow_failed, total)
    files = {text_of_path(str(part.path)): part.path.stat().st_size for part in parts.values()}
    manifest = Manifest(
        model.name, model.weights_hash, repr(model.preprocess), model.embed_dim, batch_size,
        Sources(files, text_column, part_rows), features=features, precision=work.precision,
    )  # fmt: skip
    before = Manifest.read(out)
    if before is not None:
        if differences := before.differences(manifest):
            raise DataError(f"the pool in {out} was begun with {differences}: name another folder, or delete that one.")
    else:
        refuse_other_files(out)
        manifest.write(out)
    how = how or How()
    # The loaded model does the work, and a bar shows it, but where each process takes another GPU
    here = how == How() and not (torchrun() and work.device == "cuda")
    failed |= run(_Here(work, model, progress, log) if here else work, list(parts), how, log)
    for name in parts.keys() - failed.keys():  # of a run that was killed before it could
        (out / name / JOURNAL).unlink(missing_ok=True)
        work.lock(name).with_suffix(".owner").unlink(missing_ok=True)
    finished = [about for name in parts if name not in failed and (about := FinishedPart.read(out / name))]
    failed |= {about.name: about.broken for about in finished if about.broken}
    _refuse(failed, allow_failed, total)
    if not any(about.rows for about in finished):
        key, reason = next((pair for about in finished for pair in about.skipped), ("", "it is empty"))
        raise DataError(f"no pair of the pool can be used, for instance {key}: {reason}.")
    if failed:
        log(f"{len(failed)} of {total} parts are missing or damaged: {some(list(failed))}")
    msgspec.structs.replace(manifest, parts=finished, failed=failed).write(out)
    return Pool.open(out)


def _refuse(failed: Mapping[str, str], allowed: int, total: int) -> None:
    """Raises DataError where more than ``allowed`` of ``total`` parts have failed."""
    if len(failed) > allowed:
        name, reason = next(iter(failed.items()))
        told = reason if name in reason else f"{name}: {reason}"
        raise DataError(
            f"{len(failed)} of {total} parts of the pool are missing, damaged or could not be embedded. "
            f"{told.rstrip('.')}. The same command goes on with what is done; --allow-failed {len(failed)} does "
            "without them."
        )


def refuse_other_files(out: Path) -> None:
    """Raises DataError where ``out``, in which there is no pool, is not empty."""
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"{out} holds other files: name an empty folder for the pool.")


@dataclasses.dataclass(frozen=True)
class EmbeddedParts:
    """Work by names of a pool's parts, see ``engines.Work``; the fields are as for ``embed_pool``."""

    model: str
    weights: str
    sources: tuple[str, ...]
    out: Path
    batch_size: int
    text_column: str | None
    part_rows: int
    workers: int
    features: Features
    precision: Precision
    device: str = "cpu"

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def parts(self) -> dict[str, Part]:
        """Name of its folder -> a part of the pool."""
        return _parts(self.sources, self.text_column, self.part_rows)[0]

    @property
    def missing(self) -> dict[str, str]:
        """Sources that cannot be used, with the reasons."""
        return _parts(self.sources, self.text_column, self.part_rows)[1]

    def lock(self, name: str) -> Path:
        return self.out / f"{name}.lock"

    def done(self, name: str) -> bool:
        with contextlib.suppress(DataError):  # a damaged part is embedded again, which says so
            return FinishedPart.read(self.out / name) is not None
        return False

    def __call__(self, name: str) -> None:
        model = _model(self.model, self.device)
        if model.weights_hash != self.weights:
            raise DataError(f"{self.model} has other weights here than where the pool was begun: share its folder.")
        if best_precision(self.precision, model.device) != self.precision:
            raise DataError(f"{self.precision}, in which the pool was begun, is not there on {model.device}.")
        self.embed(model, name)

    def embed(self, model: DualEncoder, name: str, **told: Any) -> None:
        """The part with a model that is loaded; ``told`` as for ``embed_part``."""
        place = self.parts[name], self.out / name
        embed_part(model, *place, self.batch_size, self.workers, self.features, self.precision, **told)


class _Here:
    """The work in this process, with a model that is loaded and a bar that counts all parts."""

    def __init__(
        self, work: EmbeddedParts, model: DualEncoder, progress: Progress | None, log: Callable[[str], None]
    ) -> None:
        self.work, self.model, self.progress, self.log = work, model, progress, log
        self.device, self.logs, self.lock, self.done = work.device, work.logs, work.lock, work.done
        self.total, self.counts = len(work.parts), dict[str, int]()

    def __call__(self, name: str) -> None:
        def advance(pairs: int, share: float) -> None:
            """``pairs`` of the part, which are the ``share`` of it, are done."""
            self.counts[name] = pairs
            done = sum(self.counts.values())
            if self.progress and done:
                self.progress(done, max(done, round(done * self.total / (len(self.counts) - 1 + share))))

        self.work.embed(self.model, name, log=self.log, advance=advance)


@functools.lru_cache(maxsize=1)
def _model(name: str, device: str) -> DualEncoder:
    """The model of a further process."""
    return load(name, device=device)


@functools.lru_cache(maxsize=4)
def _parts(sources: tuple[str, ...], text_column: str | None, part_rows: int) -> tuple[dict[str, Part], dict[str, str]]:
    """Parts by the names of their folders, and what cannot be used."""
    failed: dict[str, str] = {}
    found = find_parts(sources, text_column, part_rows, failed)
    return {f"{i:05}-{re.sub(r'[^A-Za-z0-9]+', '-', part.name)}": part for i, part in enumerate(found)}, failed


def embed_part(
    model: DualEncoder,
    part: Part,
    folder: Path,
    batch_size: int,
    workers: int,
    features: Features = "float32",
    precision: Precision = "fp32",
    log: Callable[[str], None] = print,
    advance: Callable[[int, float], None] = lambda pairs, share: None,
) -> None:
    """The features of one part, in ``folder``; goes on behind the last batch that is there.

    ``advance`` is called with the pairs that are done and their share of the part.
    """
    try:
        FinishedPart.read(folder)
    except DataError as error:
        log(f"embedded again: {error}")
    journal = Journal(folder / JOURNAL, Batch)
    with torch.inference_mode(), model.frozen(), arithmetic(model.device, precision), quiet():
        done = sum(len(batch.pairs) for batch in journal)
        with contextlib.closing(embedded(model, part.rows(done), batch_size, workers)) as batches:
            for pairs, place, found in batches:
                arrays = (feature.cpu().numpy().astype(_STORED[features]).tobytes() for feature in found)
                journal.append(Batch(pairs, dict(zip(KINDS, arrays, strict=False))))
                for pair in pairs:
                    if "reason" in pair:
                        log(f"left out {pair['key']}: {pair['reason']}")
                done += len(pairs)
                advance(done, part.share(place))
        finish_part(folder, part.name, model.embed_dim, features)
    advance(done, 1.0)


class _Prepared(NamedTuple):
    """Pairs for the journal; the ``place`` of the last; images (B, C, H, W) and texts of those that could be read."""

    pairs: list[dict[str, Any]]
    place: int
    inputs: tuple[Tensor, Tokens] | None


_Embedded = tuple[list[dict[str, Any]], int, Sequence[Tensor]]
"""Pairs for the journal, the place of the last, and features (B, D) in the order of ``KINDS``."""


def embedded(
    model: DualEncoder, rows: Iterator[Row], batch_size: int, workers: int
) -> Generator[_Embedded, None, None]:
    """Batches of pairs, each given when an accelerator is already at work on the next."""
    waiting: _Embedded | None = None
    with contextlib.closing(_prepared(model, rows, batch_size, workers)) as batches:
        for pairs, place, inputs in batches:
            features: Sequence[Tensor] = ()
            if inputs:
                images_BCHW, tokens = inputs
                pixels_BCHW = model.preprocess.normalize(
                    images_BCHW.to(model.device, non_blocking=model.device.type == "cuda")
                )
                features = model.encode_image(pixels_BCHW), model.encode_text(tokens)
            if waiting:
                yield waiting
            waiting = pairs, place, features
    if waiting:
        yield waiting


def _prepared(
    model: DualEncoder, rows: Iterator[Row], batch_size: int, workers: int
) -> Generator[_Prepared, None, None]:
    """Decoded and tokenized batches, some of them ahead of the model.

    Threads decode single images; one thread, as tokenizers want it, makes batches of them.
    """

    def gather(found: Iterator[tuple[dict[str, Any], Tensor | None]], place: int) -> _Prepared:
        pairs, decoded = zip(*found, strict=True)
        images = [pixels_CHW for pixels_CHW in decoded if pixels_CHW is not None]
        if not images:
            return _Prepared(list(pairs), place, None)
        images_BCHW = torch.stack(images)
        if model.device.type == "cuda":
            images_BCHW = images_BCHW.pin_memory()
        tokens = model.tokenize([pair["text"] for pair in pairs if "text" in pair])
        return _Prepared(list(pairs), place, (images_BCHW, tokens))

    ahead: deque[Future[_Prepared]] = deque()
    with threads(max(1, workers)) as decoding, threads(1) as gathering:
        while batch := list(itertools.islice(rows, batch_size)):
            found = decoding.map(partial(_decoded, model), batch)
            ahead.append(gathering.submit(gather, found, batch[-1].place))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decoded(model: DualEncoder, row: Row) -> tuple[dict[str, Any], Tensor | None]:
    """The pair for the journal and pixels (C, H, W); no pixels where it is left out."""
    try:
        image, text = row.load(), " ".join(row.text.split())
        if not text:
            raise UnreadableImage(row.key, "it has no text")
        pixels_CHW = model.preprocess.pixels(decode(image, row.key))
    except UnreadableImage as error:
        return {"key": row.key, "reason": error.reason}, None
    return dict(zip(ROWS, (row.key, text, row.place, row.size, digest(image)), strict=True)), pixels_CHW


def finish_part(folder: Path, name: str, width: int, features: Features = "float32") -> None:
    """Make arrays and a table of the journal in ``folder``; ``part.json`` last, as it says that the part is done."""
    import pyarrow as pa

    journal = Journal(folder / JOURNAL, Batch)
    pairs = [pair for batch in journal for pair in batch.pairs]
    rows = [pair for pair in pairs if "text" in pair]
    for leftover in folder.glob(".*"):  # of a run that was killed while it was here
        leftover.unlink()
    for kind in KINDS:
        with replacing(folder / f"{kind}.npy") as temporary, open(temporary, "wb") as file:
            header = {"descr": _STORED[features], "fortran_order": False, "shape": (len(rows), width)}
            np.lib.format.write_array_header_1_0(file, header)
            file.writelines(batch.features.get(kind, b"") for batch in journal)
    schema = pa.schema([(column, pa.int64() if column in ("place", "size") else pa.string()) for column in ROWS])
    write_table(folder / "rows.parquet", [pa.RecordBatch.from_pylist(rows, schema)], schema, {})
    content = hashlib.sha256(json.dumps([[row["key"], row["text"], row["digest"]] for row in rows]).encode())
    skipped = [(pair["key"], pair["reason"]) for pair in pairs if "reason" in pair]
    sums = {file: file_digest(folder / file) for file in (*(f"{kind}.npy" for kind in KINDS), "rows.parquet")}
    FinishedPart(name, folder.name, len(rows), content.hexdigest()[:16], skipped, sums).write(folder)
    journal.path.unlink()
