"""A page to look at anchors: fine-tune images, each with its caption and the pairs that were retrieved for it."""

from __future__ import annotations

import base64
import io
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import write_atomic
from steadyclip.data.decode import UnreadableImage, decode, quiet
from steadyclip.data.sampling import group
from steadyclip.report.templates import render

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.anchors import Anchors, Captions, Pair
    from steadyclip.data import ImageSet

_SIDE = 128
"""Pixels of a thumbnail's longer side: twice what is shown, for sharp screens."""
_FREQUENT = 8


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
    if not anchors and not (captions and len(captions)):
        raise DataError(f"there is nothing to show: {images.name} has no captions, and no anchor file was named.")
    if anchors:
        known = set(anchors.keys)
        images = images.subset(i for i, key in enumerate(images.keys) if key in known)
        if not len(images):
            raise DataError(f"{anchors.path} was made for other images, such as {anchors.keys[0]}: name their data.")
    rows = []
    for index in in_turns(images):
        try:
            picture = _thumbnail(images.read(index))
        except UnreadableImage:
            continue
        key = images.keys[index]
        pairs = [_shown(anchors, pair, _similarity(pair)) for pair in anchors.of(key)] if anchors else []
        image = (picture, images.classes[images.labels[index]], key)
        rows.append((image, captions.get(key) if captions else "", pairs))
        if len(rows) == limit:
            break
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


def in_turns(images: ImageSet) -> list[int]:
    """Positions of all images: the first of each class, then the second of each, and so on."""
    turns = ((turn, label, index) for label, of in group(images.labels).items() for turn, index in enumerate(of))
    return [index for _, _, index in sorted(turns)]


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


def _facts(images: ImageSet, captions: Captions | None, anchors: Anchors | None) -> list[tuple[str, str]]:
    facts = []
    if captions:
        texts = [text for key in images.keys if (text := captions.get(key))]
        facts.append(("captions", f"{captions.name}: {len(texts)} of {len(images)} images, {_words(texts)}"))
    if anchors:
        about = anchors.about
        scores = [s for s in anchors.table.column("similarity").to_pylist() if s == s]
        facts.append(("pairs", f"{len(anchors)}, {len(anchors.distinct)} of them different"))
        if scores:
            spread = f"{min(scores):.2f} to {max(scores):.2f}"
            facts.append(("similarity", f"median {statistics.median(scores):.2f}, {spread}"))
        for name in ("query", "k", "near_duplicate", "model", "weights", "pool", "engine", "seed"):
            if about.get(name) is not None:
                facts.append((name.replace("_", " "), str(about[name])))
    return facts


def _words(texts: Sequence[str]) -> str:
    return f"{statistics.mean(len(text.split()) for text in texts):.0f} words on average" if texts else "none"


def _thumbnail(image: Image.Image) -> str:
    """A PNG as a data URL."""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
