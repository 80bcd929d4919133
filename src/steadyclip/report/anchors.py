"""A page to look at anchors: fine-tune images, each with its caption and the pairs that were retrieved for it."""

from __future__ import annotations

import base64
import io
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import write_atomic
from steadyclip.data.decode import UnreadableImage, decode, quiet
from steadyclip.data.sampling import group
from steadyclip.report.cells import render

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.anchors import Anchors, Captions, Pair
    from steadyclip.data import ImageSet

_SIDE = 128  # pixels of a thumbnail's longer side: twice what is shown, for sharp screens
_FREQUENT = 8
_SOURCES = ("query", "k", "near_duplicate", "model", "weights", "pool", "engine", "seed")

Shown = tuple[str, str, str]
"""The image as a data URL, its text, and a note below."""


def write_sheet(
    out: str | Path, images: ImageSet, captions: Captions | None, anchors: Anchors | None, limit: int = 60
) -> Path:
    """Write one self-contained HTML file.

    Args:
        out: the page.
        images: the fine-tune images.
        captions: theirs; those without one are shown without.
        anchors: their retrieved pairs.
        limit: images to show, taken in turns from the classes; those that cannot be read are left out.

    Raises:
        DataError: there is nothing to show, or the anchors are of other images.
        UsageError: ``limit`` below 1.
    """
    if limit < 1:
        raise UsageError(f"limit must be 1 or more, not {limit}.")
    if not anchors and not (captions and captions.texts):
        raise DataError(f"there is nothing to show: {images.name} has no captions, and no anchor file was named.")
    if anchors:
        known = set(anchors.keys)
        images = images.subset(i for i, key in enumerate(images.keys) if key in known)
        if not len(images):
            raise DataError(f"{anchors.path} was made for other images, such as {anchors.keys[0]}: name their data.")
    rows = list(islice(_rows(images, captions, anchors), limit))
    if not rows:
        raise DataError(f"none of the {len(images)} images of {images.name} can be read.")
    page = render(
        "anchors.html",
        title=f"Anchors of {images.name}",
        subtitle=f"{len(rows)} of {len(images)} images" + (f" of {anchors.path.name}" if anchors else ""),
        rows=rows,
        facts=_facts(images, captions, anchors),
        frequent=_frequent(anchors) if anchors else [],
    )
    write_atomic(Path(out), page.encode())
    return Path(out)


def _rows(
    images: ImageSet, captions: Captions | None, anchors: Anchors | None
) -> Iterator[tuple[Shown, str, list[Shown]]]:
    """Each readable image with its caption and its pairs: the first of each class, then the second of each, ..."""
    by_class = [positions for _, positions in sorted(group(images.labels).items())]
    for index in (index for turn in zip_longest(*by_class) for index in turn if index is not None):
        try:
            picture = _thumbnail(images.read(index))
        except UnreadableImage:
            continue
        key = images.keys[index]
        pairs = [_shown(anchors, pair, _similarity(pair)) for pair in anchors.of(key)] if anchors else []
        yield (
            (picture, images.classes[images.labels[index]], key),
            captions.texts.get(key, "") if captions else "",
            pairs,
        )


def _shown(anchors: Anchors, pair: Pair, note: str) -> Shown:
    with quiet():
        image = decode(pair.image, f"{anchors.path.name}: {pair.pool_key}")
    return _thumbnail(image), pair.text, note


def _similarity(pair: Pair) -> str:
    return "random" if pair.similarity != pair.similarity else f"{pair.similarity:.2f}"


def _frequent(anchors: Anchors) -> list[Shown]:
    """Pairs that several images retrieved: a pair that turns up everywhere says little about any of them."""
    counts = Counter(anchors.table.column("pool_key").to_pylist())
    first = {anchors[row].pool_key: row for row in anchors.distinct}
    often = [(key, count) for key, count in counts.most_common(_FREQUENT) if count > 1]
    return [_shown(anchors, anchors[first[key]], f"{count} images") for key, count in often]


def _facts(images: ImageSet, captions: Captions | None, anchors: Anchors | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if captions:
        texts = [text for key in images.keys if (text := captions.texts.get(key))]
        words = f"{statistics.mean(len(text.split()) for text in texts):.0f} words on average" if texts else "none"
        facts["captions"] = f"{captions.name}: {len(texts)} of {len(images)} images, {words}"
    if anchors:
        scores = [s for s in anchors.table.column("similarity").to_pylist() if s == s]
        facts["pairs"] = f"{len(anchors)}, {len(anchors.distinct)} of them different"
        if scores:
            spread = f"{min(scores):.2f} to {max(scores):.2f}"
            facts["similarity"] = f"median {statistics.median(scores):.2f}, {spread}"
        facts |= {name.replace("_", " "): anchors.about.get(name) for name in _SOURCES}
    return facts


def _thumbnail(image: Image.Image) -> str:
    """A PNG as a data URL."""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
