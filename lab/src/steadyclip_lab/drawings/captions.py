"""What a person might write under a drawing: its name, style, other names and category."""

from __future__ import annotations

import hashlib

from steadyclip_lab.drawings.sets import Drawing

# the first of these that the style's words hold decides
_STYLES = (
    ("thin", "a thin line drawing"),
    ("light", "a fine line drawing"),
    ("bold-duotone", "a two-tone icon"),
    ("duo", "a two-tone icon"),
    ("two", "a two-tone icon"),
    ("fill", "a filled icon"),
    ("solid", "a solid icon"),
    ("bold", "a bold icon"),
    ("line", "a line drawing"),
    ("stroke", "a line drawing"),
    ("round", "an icon with round corners"),
    ("sharp", "an icon with sharp corners"),
)


def caption(drawing: Drawing, category: str | None = None) -> str:
    """One caption for ``drawing``, the same every time; ``category`` is the class it stands for, if any."""
    thing = with_article(drawing.text)
    style = "a colorful drawing" if drawing.colored else "an icon"
    style = next((words for part, words in _STYLES if part in drawing.style), style)
    kind = category or next((group.replace("&", "and") for group in drawing.categories), "")
    kind = "" if kind == drawing.text else kind
    about = " or ".join(drawing.also[:2])
    pattern = int(hashlib.sha256(drawing.key.encode()).hexdigest()[0], 16) % 3
    if pattern == 0:
        return f"{style} of {thing}" + (f", {kind}" if kind else "") + (f" ({about})" if about else "")
    if pattern == 1:
        return (f"{kind}: " if kind else "") + f"{thing}, {style}" + (f", or {about}" if about else "")
    return f"{thing}" + (f" or {about}" if about else "") + f", {style}" + (f", {kind}" if kind else "")


def with_article(words: str) -> str:
    """``"an apple"``, ``"a pear"``, ``"scissors"``; words that start with a figure stay as they are."""
    last = words.split()[-1] if words else ""
    if not words[:1].isalpha() or (last.endswith("s") and not last.endswith(("ss", "us", "is"))):
        return words
    vowel = words.startswith("hour") or (words[0] in "aeiou" and not words.startswith(("uni", "use", "usb", "eu")))
    return f"{'an' if vowel else 'a'} {words}"
