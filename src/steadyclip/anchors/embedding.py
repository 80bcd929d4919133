"""Computes the features of a pool, so that a killed run goes on where it was, and several processes share the work.

A part of the sources is written by one process at a time, which holds its lock. Batches start at the same pairs in
every run, so that the files are the same bytes however often a run was killed and however many processes there were.

Shapes: B pairs in a batch, C channels, H W pixels, D feature width.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyclip.anchors.pool import MANIFEST, SCHEMA, Pool, differences, read_manifest
from steadyclip.anchors.sources import PART_ROWS, Part, Row, find_parts
from steadyclip.anchors.writing import JOURNAL, PartWriter, finished_part
from steadyclip.core.errors import DataError
from steadyclip.core.files import owning, write_atomic
from steadyclip.core.progress import Progress
from steadyclip.data.content import threads
from steadyclip.data.decode import UnreadableImage, decode, quiet
from steadyclip.models import DualEncoder, Tokens

_AHEAD = 3
"""Batches that are being prepared while the model is at work."""


def embed_pool(
    model: DualEncoder,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int = 256,
    text_column: str | None = None,
    part_rows: int = PART_ROWS,
    workers: int = 4,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> Pool | None:
    """Features of all pairs of ``sources`` under the frozen ``model``; goes on with what is in ``out``.

    Start it several times to share the work between processes: each takes parts that nobody works on.

    Args:
        model: pretrained; what has been trained in it does not count.
        sources: as for ``find_parts``.
        out: folder of the pool.
        batch_size: pairs in a forward pass.
        text_column: column of the texts.
        part_rows: pairs of a table that a process takes at a time.
        workers: threads that decode images, one at least.
        progress: called with pairs done and an estimate of all.
        log: takes one line on each pair that was left out, and on what other processes are doing.

    Returns:
        The pool, or None while other processes are at work on its last parts.

    Raises:
        DataError: a source cannot be used, ``out`` holds a pool of other sources or weights, or no pair can be read.
    """
    out = Path(out)
    parts = find_parts(sources, text_column, part_rows)
    folders = [out / f"{i:05}-{re.sub(r'[^A-Za-z0-9]+', '-', part.name)}" for i, part in enumerate(parts)]
    manifest = _manifest(model, parts, batch_size, text_column, part_rows)
    _agree(out, manifest)
    done, owners = _Count(progress, len(parts)), {}
    with torch.inference_mode(), model.frozen(), quiet():
        for part, folder in zip(parts, folders, strict=True):
            with owning(folder.with_suffix(".lock")) as owner:
                if owner:
                    owners[part.name] = owner
                elif finished_part(folder) is None:
                    with PartWriter(folder, model.embed_dim) as writer, contextlib.ExitStack() as stack:
                        batches = _embedded(model, part, writer.next, batch_size, workers)
                        for batch in stack.enter_context(contextlib.closing(batches)):
                            writer.add([feature.cpu().numpy() for feature in batch.features], batch.lines)
                            for line in batch.lines:
                                if "reason" in line:
                                    log(f"left out {line['key']}: {line['reason']}")
                            done.show(writer.next, part.share(batch.place))
                        writer.finish(part.name)
                else:  # a run may have been killed while it tidied up
                    (folder / JOURNAL).unlink(missing_ok=True)
            done.part(folder)
    for name, owner in owners.items():
        log(f"{name} is being embedded by {owner}")
    return _finish(out, manifest, folders)


@dataclass
class _Batch:
    """Lines of the journal, one a pair; the ``place`` of the last; what could be read of the pairs, for the model; and
    the features that it made of that: of the images, and of the texts."""

    lines: list[dict[str, Any]]
    place: int
    inputs: tuple[Tensor, Tokens] | None
    features: Sequence[Tensor] = ()


_Batches = Generator[_Batch, None, None]


def _embedded(model: DualEncoder, part: Part, start: int, batch_size: int, workers: int) -> _Batches:
    """The batches of a part from pair ``start`` on, each when an accelerator is already at work on the next."""
    waiting: _Batch | None = None
    with contextlib.closing(_prepared(model, part.rows(start), batch_size, workers)) as batches:
        for batch in batches:
            if batch.inputs:
                images_BCHW, tokens = batch.inputs
                pixels_BCHW = images_BCHW.to(model.device, non_blocking=True)
                batch.features = model.encode_image(pixels_BCHW), model.encode_text(tokens)
            if waiting:
                yield waiting
            waiting = batch
    if waiting:
        yield waiting


def _prepared(model: DualEncoder, rows: Iterator[Row], batch_size: int, workers: int) -> _Batches:
    """Decoded and tokenized batches, some of them ahead of the model.

    Threads decode single images; one thread, as tokenizers want it, makes batches of them.
    """

    def gather(found: Iterator[tuple[dict[str, Any], Tensor | None]], place: int) -> _Batch:
        lines, images = zip(*found, strict=True)
        images = [pixels_CHW for pixels_CHW in images if pixels_CHW is not None]
        if not images:
            return _Batch(list(lines), place, None)
        images_BCHW = torch.stack(images)
        if model.device.type == "cuda":
            images_BCHW = images_BCHW.pin_memory()
        tokens = model.tokenize([line["text"] for line in lines if "text" in line])
        return _Batch(list(lines), place, (images_BCHW, tokens))

    ahead: deque[Future[_Batch]] = deque()
    with threads(max(1, workers)) as decoding, threads(1) as gathering:
        for batch in iter(lambda: list(itertools.islice(rows, batch_size)), []):
            found = decoding.map(partial(_decoded, model), batch)
            ahead.append(gathering.submit(gather, found, batch[-1].place))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decoded(model: DualEncoder, row: Row) -> tuple[dict[str, Any], Tensor | None]:
    """Line of the journal and pixels (C, H, W); no pixels where the pair is left out."""
    try:
        image, text = row.load(), " ".join(row.text.split())
        if not text:
            raise UnreadableImage(row.key, "it has no text")
        pixels_CHW = model.preprocess(decode(image, row.key))
    except UnreadableImage as error:
        return {"key": row.key, "reason": error.reason}, None
    digest = hashlib.sha256(image).hexdigest()[:16]
    return {"key": row.key, "text": text, "place": row.place, "size": row.size, "digest": digest}, pixels_CHW


@dataclass
class _Count:
    """Progress in pairs; how many there are in all is estimated from the share of the parts that is done."""

    progress: Progress | None
    parts: int
    finished: int = 0
    before: int = 0

    def part(self, folder: Path) -> None:
        """A part is finished, or left to another process."""
        self.finished += 1
        if (about := finished_part(folder)) is not None:
            self.before += about["rows"] + len(about["skipped"])
        self.show(0, 0.0)

    def show(self, pairs: int, share: float) -> None:
        """``pairs`` of the part at hand are done, which are ``share`` of it."""
        done, parts = self.before + pairs, self.finished + share
        if self.progress and done:
            self.progress(done, done if self.finished == self.parts else max(done, round(done * self.parts / parts)))


def _manifest(
    model: DualEncoder, parts: list[Part], batch_size: int, text_column: str | None, part_rows: int
) -> dict[str, Any]:
    files = dict.fromkeys(part.path for part in parts)
    return {
        "schema": SCHEMA, "complete": False, "model": model.name, "weights": model.weights_hash,
        "preprocess": repr(model.preprocess), "width": model.embed_dim, "batch_size": batch_size,
        "sources": {
            "files": {str(path): path.stat().st_size for path in files},
            "text_column": text_column, "part_rows": part_rows,
        },
        "parts": [],
    }  # fmt: skip


def _agree(out: Path, manifest: dict[str, Any]) -> None:
    """Leave the manifest of an unfinished pool in ``out``, or see that the one there is of the same pool."""
    before = read_manifest(out)
    if before is None:
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise DataError(f"{out} holds other files: name an empty folder for the pool.")
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    elif other := differences(before, manifest):
        raise DataError(f"the pool in {out} was begun with {other}: name another folder, or delete that one.")


def _finish(out: Path, manifest: dict[str, Any], folders: list[Path]) -> Pool | None:
    """Write the manifest of the whole once every part is done; whoever comes last does, and any other the same."""
    parts = [about for folder in folders if (about := finished_part(folder)) is not None]
    if len(parts) < len(folders):
        return None
    if not any(part["rows"] for part in parts):
        key, reason = next(iter(parts[0]["skipped"]), ("", "it is empty"))
        raise DataError(f"no pair of the pool can be used, for instance {key}: {reason}.")
    whole = {**manifest, "complete": True, "parts": parts}
    write_atomic(out / MANIFEST, json.dumps(whole, indent=1, ensure_ascii=False).encode())
    return Pool.open(out)
