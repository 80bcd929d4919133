"""What a person might write under a drawing: its name, style, tags and category.

Tags and categories are phosphor's own, where the package py-phosphor-icons knows the drawing; for the other teams the
words of the name have to do. Captions of the pretraining half never use the classes of the downstream half.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path

from steadyclip.data.icons.packs import Drawing
from steadyclip.errors import DataError

_STYLES = {
    "thin": "thin line drawing",
    "light": "fine line drawing",
    "regular": "line drawing",
    "bold": "bold line drawing",
    "outline": "line drawing",
    "outlined": "line drawing",
    "fill": "filled icon",
    "filled": "filled icon",
    "duotone": "two-tone icon",
    "two-tone": "two-tone icon",
    "solid": "solid icon",
    "colour": "colourful emoji",
    "rounded": "icon with round corners",
    "sharp": "icon with sharp corners",
}


def caption(drawing: Drawing, category: str | None = None) -> str:
    """One caption for ``drawing``, the same every time; ``category`` is the class it stands for, if any."""
    thing, style = with_article(drawing.text), with_article(_STYLES.get(drawing.style, "icon"))
    tags, group = _phosphor_words().get(drawing.name, ((), "")) if drawing.pack == "phosphor" else ((), "")
    kind = category if category and category != drawing.text else group
    shuffled = sorted(tags, key=lambda tag: hashlib.sha256(f"{drawing.key} {tag}".encode()).digest())
    about = " and ".join(shuffled[:2])
    pattern = hashlib.sha256(drawing.key.encode()).digest()[0] % 3
    if pattern == 0:
        return f"{style} of {thing}" + (f", {kind}" if kind else "") + (f", about {about}" if about else "")
    if pattern == 1:
        return f"{thing}" + (f" ({kind})" if kind else "") + f", {style}" + (f" for {about}" if about else "")
    return f"{style} showing {thing}" + (f" for {about}" if about else "") + (f": {kind}" if kind else "")


def with_article(words: str) -> str:
    """``"an apple"``, ``"a pear"``; words that start with a figure stay as they are."""
    if not words[:1].isalpha():
        return words
    return f"{'an' if words[0].lower() in 'aeiou' and not words.startswith(('u-', 'us', 'uni', 'eu')) else 'a'} {words}"


@cache
def _phosphor_words() -> dict[str, tuple[tuple[str, ...], str]]:
    """Drawing name -> (tags, category in lower case)."""
    spec = importlib.util.find_spec("py_phosphor_icons")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            'captions need phosphor\'s tags (py-phosphor-icons), not installed: pip install "steadyclip[icons]".'
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "search" / "metadata.json"
    return {
        # a few tags are remarks of the makers ("*new*"), not words
        entry["name"]: (
            tuple(tag for tag in entry["tags"] or () if "*" not in tag),
            (entry["figma_category"] or "").lower(),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    }
