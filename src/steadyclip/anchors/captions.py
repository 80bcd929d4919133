"""Captions of fine-tune images: made once by a captioner, kept in a file, read by trainings.

The file is parquet, a row an image: ``path`` (its key in the image set), ``caption``, ``captioner``, ``decoding``
(JSON) and ``digest`` (what the image was, as in ``ImageSet.digests``); what it was made from stands in the schema
metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.anchors.journal import Journal
from steadyclip.core.errors import DataError
from steadyclip.core.files import owning
from steadyclip.core.progress import Progress
from steadyclip.core.provenance import versions
from steadyclip.data.content import threads
from steadyclip.data.decode import UnreadableImage, quiet
from steadyclip.data.tables import Table, write_table

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.anchors.captioners import Captioner
    from steadyclip.data import ImageSet

COLUMNS = ("path", "caption", "captioner", "decoding", "digest")
REMEDY = "Make one with `steadyclip anchors caption`, or write the columns path and caption yourself."


@dataclass(frozen=True)
class Captions:
    """Captions by the key of the image; ``name`` says in errors where they are from, and ``digests`` what the images
    were, where that is known."""

    texts: Mapping[str, str]
    name: str = "these captions"
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, images: ImageSet, path: Path | None = None) -> Captions:
        """Those in the captions file ``path``, by default those that the data set brings along."""
        if path:
            return cls(read_captions(path), str(path), _digests(Table.open(path)))
        own = zip(images.keys, images.captions, strict=True)
        return cls({key: text for key, text in own if text and text.strip()}, f"the captions of {images.name}")

    def check(self, images: ImageSet) -> None:
        """See that every image has a caption, and is the image that was captioned.

        Raises:
            DataError: some have none; the line counts them, and the captions of images that are not in the set. Or some
                are other images now.
        """
        images.refuse_changed(self.digests, self.name)
        missing = [key for key in images.keys if key not in self.texts]
        if not missing:
            return
        foreign = sorted(self.texts.keys() - set(images.keys))
        others = f"; {len(foreign)} captions are of other images, for instance {foreign[0]}" if foreign else ""
        raise DataError(
            f"{self.name}: {len(missing)} of {len(images)} images of {images.name} have no caption, for instance "
            f"{missing[0]}{others}. Complete them with `steadyclip anchors caption`."
        )


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
    journal = Journal(out.with_name(f"{out.name}.partial.jsonl"), list[dict[str, Any]])
    with owning(out.with_suffix(".lock")) as owner:
        if owner:
            raise DataError(f"{out} is being written by {owner}.")
        known = _by_same_captioner(out, captioner) if out.exists() else Captions({})
        images.refuse_changed(known.digests, str(out))
        before = dict(known.texts)
        foreign = before.keys() - set(images.keys)
        if foreign:
            log(f"{out} also holds captions of {len(foreign)} other images, for instance {min(foreign)}: kept")
        todo = images.subset(i for i, key in enumerate(images.keys) if key not in before)
        if not len(todo):
            # a run may have been killed when all of its journal was in the file already
            made = [line for batch in journal for line in batch if "caption" in line]
            if all(before.get(line["path"]) == line["caption"] for line in made):
                journal.path.unlink(missing_ok=True)
            return before
        lines = _begun(journal, captioner, todo)
        with threads(max(1, workers)) as decoding, quiet():
            for begin in range(len(lines), len(todo), batch_size):
                batch = todo.subset(range(begin, min(begin + batch_size, len(todo))))
                made = _caption_batch(batch, captioner, decoding)
                journal.append(made)
                lines += made
                if progress:
                    progress(len(lines), len(todo))
        captions = before | {line["path"]: line["caption"] for line in lines if "caption" in line}
        skipped = [(line["path"], line["reason"]) for line in lines if "reason" in line]
        for key, reason in skipped:
            log(f"no caption for {key}: {reason}")
        if not captions:
            key, reason = skipped[0]
            raise DataError(
                f"none of the {len(todo)} images of {images.name} got a caption, for instance {key}: {reason}."
            )
        digests = {**known.digests, **dict(zip(images.keys, images.digests, strict=True))}
        _write(out, captions, digests, captioner, {"data": images.name, "set": images.hash, "skipped": skipped})
        journal.path.unlink()
    return captions


def _begun(journal: Journal[list[dict[str, Any]]], captioner: Captioner, images: ImageSet) -> list[dict[str, Any]]:
    """A line for each image that is done, with its caption or why it has none; the journal's first says whose."""
    head = {"captioner": captioner.name, "decoding": captioner.decoding, "set": images.hash}
    lines = [line for batch in journal for line in batch]
    if not lines:
        journal.append([head])
    elif lines[0] != head:
        raise DataError(
            f"{journal.path} was begun with other images or by another captioner ({lines[0]['captioner']} "
            f"{lines[0]['decoding']}): delete it, or name another file for the captions."
        )
    return lines[1:]


def _caption_batch(batch: ImageSet, captioner: Captioner, decoding: ThreadPoolExecutor) -> list[dict[str, Any]]:
    def read(index: int) -> Image.Image | str:
        try:
            return batch.read(index)
        except UnreadableImage as error:
            return error.reason

    found = list(decoding.map(read, range(len(batch))))
    readable = [index for index, one in enumerate(found) if not isinstance(one, str)]
    pictures = [one for one in found if not isinstance(one, str)]
    texts = dict(zip(readable, captioner.write(pictures, batch.subset(readable)), strict=True)) if readable else {}
    lines = []
    for index, key in enumerate(batch.keys):
        text = " ".join(texts.get(index, "").split())
        reason = "the caption is empty" if index in texts else found[index]
        lines.append({"path": key, "caption": text} if text else {"path": key, "reason": reason})
    return lines


def _digests(table: Table) -> dict[str, str]:
    """Key of the image -> what it was, where the file says so."""
    if "digest" not in table.columns:
        return {}
    return {row["path"]: row["digest"] or "" for _, row in table.rows(("path", "digest"))}


def _by_same_captioner(out: Path, captioner: Captioner) -> Captions:
    table = Table.open(out)
    table.need(*COLUMNS[:4], remedy=REMEDY, what="a captions file of steadyclip")
    mine = (captioner.name, json.dumps(captioner.decoding))
    others = {(row["captioner"], row["decoding"]) for _, row in table.rows(COLUMNS[2:4])} - {mine}
    for name, decoding in sorted(others):
        raise DataError(
            f"{out} holds captions by {name} {decoding}, not by {mine[0]} {mine[1]}: name another file for them."
        )
    return Captions(read_captions(out), str(out), _digests(table))


def _write(
    out: Path, captions: Mapping[str, str], digests: Mapping[str, str], captioner: Captioner, about: Mapping[str, Any]
) -> None:
    import pyarrow as pa

    decoding = json.dumps(captioner.decoding)
    rows = [(key, text, captioner.name, decoding, digests.get(key, "")) for key, text in captions.items()]
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    batch = pa.RecordBatch.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema)
    made = {"captioner": captioner.name, "decoding": captioner.decoding, **about, "versions": versions()}
    write_table(out, [batch], schema, made)
