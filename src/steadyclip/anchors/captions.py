"""Captions of fine-tune images: made once by a captioner, kept in a file, read by trainings.

The file is parquet, a row an image: ``path`` (its key in the image set), ``caption``, ``captioner`` and ``decoding``
(JSON); what it was made from stands in the schema metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from steadyclip.anchors.journal import Journal
from steadyclip.core.errors import DataError
from steadyclip.core.files import owning
from steadyclip.core.progress import Progress
from steadyclip.core.provenance import versions
from steadyclip.data.decode import UnreadableImage, quiet
from steadyclip.data.tables import Table, write_table

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.data import ImageSet

COLUMNS = ("path", "caption", "captioner", "decoding")
REMEDY = "Make one with `steadyclip anchors caption`, or write the columns path and caption yourself."


def read_captions(path: str | Path) -> dict[str, str]:
    """Key of the image -> its caption. Only the columns ``path`` and ``caption`` need be there.

    Raises:
        DataError: no such file, not a captions file, an empty caption, or two for one image.
    """
    table = Table.open(Path(path), REMEDY)
    table.need(*COLUMNS[:2], remedy=REMEDY, what="a captions file")
    captions: dict[str, str] = {}
    for number, row in table.rows(COLUMNS[:2]):
        key, caption = row["path"], row["caption"]
        if not isinstance(key, str) or not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{path} row {number}: path and caption must be texts, not {key!r} and {caption!r}.")
        if key in captions:
            raise DataError(f"{path} row {number}: a second caption for {key}. Remove one of them.")
        captions[key] = caption
    return captions


class Captioner(Protocol):
    """Writes captions."""

    @property
    def name(self) -> str:
        """Goes into the file, and so does ``decoding``."""
        ...

    @property
    def decoding(self) -> Mapping[str, Any]:
        """How the captions come about, as JSON values."""
        ...

    def __call__(self, pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
        """One caption for each of ``images``, the decoded images of ``images``."""
        ...


class TemplateCaptioner:
    """The control: the class name in one of the set's templates, chosen by the key; no image is looked at."""

    name, decoding = "template", MappingProxyType({})

    def __call__(self, pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
        captions = []
        for key, label in zip(images.keys, images.labels, strict=True):
            chosen = int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(images.templates)
            captions.append(images.templates[chosen].replace("{}", images.classes[label]))
        return captions


class ManifestCaptioner:
    """The captions that the data set brings along in its manifest."""

    name, decoding = "manifest", MappingProxyType({})

    def __call__(self, pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
        return [caption or "" for caption in images.captions]


def caption_images(
    images: ImageSet,
    captioner: Captioner,
    out: str | Path,
    *,
    batch_size: int = 32,
    workers: int = 4,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, str]:
    """Write captions of ``images`` to ``out``, those that it already holds excepted; a killed run goes on.

    After each batch its captions are on disk, beside ``out``; ``out`` itself appears whole, at the end.

    Args:
        images: what to caption. Images that cannot be read get no caption and are named.
        captioner: who writes them.
        out: the captions file (parquet).
        batch_size: images that the captioner gets at once.
        workers: threads that decode.
        progress: called with images done and all.
        log: takes one line on each image without a caption, and on captions of other images in ``out``.

    Returns:
        All captions of the file by key.

    Raises:
        DataError: ``out`` was made, or is being made, by another captioner, or no image got a caption.
    """
    out = Path(out)
    journal = out.with_name(f"{out.name}.partial.jsonl")
    with owning(out.with_suffix(".lock")) as owner, quiet():
        if owner:
            raise DataError(f"{out} is being written by {owner}.")
        before = _same_captioner(out, captioner) if out.exists() else {}
        foreign = before.keys() - set(images.keys)
        if foreign:
            log(f"{out} also holds captions of {len(foreign)} other images, for instance {min(foreign)}: kept")
        todo = images.subset(i for i, key in enumerate(images.keys) if key not in before)
        if not len(todo):
            return before
        lines = _caption_all(todo, captioner, journal, batch_size, workers, progress)
        captions = before | {line["path"]: line["caption"] for line in lines if "caption" in line}
        skipped = [(line["path"], line["reason"]) for line in lines if "reason" in line]
        for key, reason in skipped:
            log(f"no caption for {key}: {reason}")
        if not captions:
            key, reason = skipped[0]
            raise DataError(
                f"none of the {len(todo)} images of {images.name} got a caption, for instance {key}: {reason}."
            )
        _write(out, captions, captioner, {"data": images.name, "set": images.hash, "skipped": skipped})
        journal.unlink()
    return captions


def _caption_all(
    images: ImageSet, captioner: Captioner, path: Path, batch_size: int, workers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """A line an image, with its caption or the reason why it has none; the journal's first says whose they are."""
    head = {"captioner": captioner.name, "decoding": dict(captioner.decoding), "set": images.hash}
    with Journal(path, list[dict[str, Any]]) as journal, ThreadPoolExecutor(max(1, workers)) as threads:
        lines = [line for batch in journal for line in batch]
        if not lines:
            journal.append([head])
        elif lines[0] != head:
            raise DataError(
                f"{path} was begun with other images or by another captioner ({lines[0]['captioner']} "
                f"{lines[0]['decoding']}): delete it, or name another file for the captions."
            )
        lines = lines[1:]
        for begin in range(len(lines), len(images), batch_size):
            batch = images.subset(range(begin, min(begin + batch_size, len(images))))
            made = _caption_batch(batch, captioner, threads)
            journal.append(made)
            lines += made
            if progress:
                progress(len(lines), len(images))
    return lines


def _caption_batch(batch: ImageSet, captioner: Captioner, threads: ThreadPoolExecutor) -> list[dict[str, Any]]:
    def read(index: int) -> Image.Image | str:
        try:
            return batch.read(index)
        except UnreadableImage as error:
            return error.reason

    found = dict(zip(batch.keys, threads.map(read, range(len(batch))), strict=True))
    readable = {key: one for key, one in found.items() if not isinstance(one, str)}
    subset = batch.subset(i for i, key in enumerate(batch.keys) if key in readable)
    texts = dict(zip(readable, captioner(list(readable.values()), subset), strict=True)) if readable else {}
    lines = []
    for key in batch.keys:
        text = " ".join(texts.get(key, "").split())
        reason = "the caption is empty" if key in texts else found[key]
        lines.append({"path": key, "caption": text} if text else {"path": key, "reason": reason})
    return lines


def _same_captioner(out: Path, captioner: Captioner) -> dict[str, str]:
    table = Table.open(out)
    table.need(*COLUMNS, remedy=REMEDY, what="a captions file of steadyclip")
    mine = (captioner.name, json.dumps(dict(captioner.decoding)))
    others = {(row["captioner"], row["decoding"]) for _, row in table.rows(COLUMNS[2:])} - {mine}
    for name, decoding in sorted(others):
        raise DataError(
            f"{out} holds captions by {name} {decoding}, not by {mine[0]} {mine[1]}: name another file for them."
        )
    return read_captions(out)


def _write(out: Path, captions: Mapping[str, str], captioner: Captioner, about: Mapping[str, Any]) -> None:
    import pyarrow as pa

    decoding = dict(captioner.decoding)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    rows = [(key, caption, captioner.name, json.dumps(decoding)) for key, caption in captions.items()]
    batch = pa.RecordBatch.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema)
    write_table(
        out, [batch], schema, {"captioner": captioner.name, "decoding": decoding, **about, "versions": versions()}
    )
