"""What a person might write under a drawing: its name, style, tags and category.

Tags and categories are the makers' own: phosphor's from the package py-phosphor-icons, tabler's from its SVG files. For
the other teams the words of the name have to do. Captions of the pretraining half never use the classes of the
downstream half.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

from steadyclip.core.errors import DataError
from steadyclip_lab.drawings.captions import with_article
from steadyclip_lab.icons.packs import Drawing

_STYLES = {
    "thin": "a thin line drawing",
    "light": "a fine line drawing",
    "regular": "a line drawing",
    "bold": "a bold line drawing",
    "outline": "a line drawing",
    "outlined": "a line drawing",
    "fill": "a filled icon",
    "filled": "a filled icon",
    "duotone": "a two-tone icon",
    "two-tone": "a two-tone icon",
    "solid": "a solid icon",
    "colour": "a colourful emoji",
    "rounded": "an icon with round corners",
    "sharp": "an icon with sharp corners",
}
_MOST_TAGS = 2
_TABLER_TAGS = re.compile(r"^tags: \[(.*?)\]", re.MULTILINE | re.DOTALL)
_TABLER_CATEGORY = re.compile(r"^category: (.*)$", re.MULTILINE)
_EMPTY_CATEGORIES = ("system", "extensions", "symbols")
"""They say nothing about an image."""


def caption(drawing: Drawing, category: str | None = None) -> str:
    """One caption for ``drawing``, the same every time; ``category`` is the class it stands for, if any."""
    thing, style = with_article(drawing.text), _STYLES[drawing.style]
    tags, group = _makers_words(drawing)
    kind = category or group
    if kind == drawing.text:
        kind = ""
    said = {*drawing.text.split(), *kind.split()}
    fresh = [tag for tag in tags if not said & {tag, tag.removesuffix("s"), f"{tag}s"}]
    about = " and ".join(sorted(fresh, key=lambda tag: _digest(f"{drawing.key} {tag}"))[:_MOST_TAGS])
    pattern = int(_digest(drawing.key)[0], 16) % 3
    if pattern == 0:
        return f"{style} of {thing}" + (f", {kind}" if kind else "") + (f" ({about})" if about else "")
    if pattern == 1:
        return (f"{kind}: " if kind else "") + f"{thing}, {style}" + (f" for {about}" if about else "")
    return f"{thing}" + (f" for {about}" if about else "") + f", {style}" + (f", {kind}" if kind else "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _makers_words(drawing: Drawing) -> tuple[tuple[str, ...], str]:
    """Tags and category, where the drawing's makers gave some."""
    if drawing.pack == "phosphor":
        return _phosphor_words().get(drawing.name, ((), ""))
    if drawing.pack == "tabler":
        tags, category = _TABLER_TAGS.search(drawing.svg), _TABLER_CATEGORY.search(drawing.svg)
        words = tuple(tag.strip(" '\"").lower() for tag in tags[1].split(",")) if tags else ()
        group = category[1].strip().lower() if category else ""
        return tuple(tag for tag in words if tag), "" if group in _EMPTY_CATEGORIES else group
    return (), ""


@cache
def _phosphor_words() -> dict[str, tuple[tuple[str, ...], str]]:
    """Drawing name -> (tags, category), in lower case."""
    spec = importlib.util.find_spec("py_phosphor_icons")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("captions need phosphor's tags, which are not installed: pip install py-phosphor-icons.")
    path = Path(next(iter(spec.submodule_search_locations))) / "search" / "metadata.json"
    words = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        # a few tags are remarks of the makers ("*new*"), not words
        tags = tuple(tag.lower() for tag in entry["tags"] or () if "*" not in tag)
        words[entry["name"]] = tags, (entry["figma_category"] or "").lower().replace("&", "and")
    return words
