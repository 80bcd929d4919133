"""A page of the images that a search has found."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from steadyclip.data.decode import UnreadableImage
from steadyclip.data.images import read_image
from steadyclip.deploy.embedding import Found

_SIDE = 224
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem; }}
ol {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
     list-style: none; padding: 0; }}
img {{ height: auto; max-width: 100%; }}
figure {{ margin: 0; }} figcaption {{ font-size: .85rem; overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
<ol>
{items}
</ol>
</body></html>
"""


def page_of(title: str, found: Sequence[Found]) -> str:
    """A page that needs no other file."""
    items = []
    for score, path in found:
        name = html.escape(path)
        try:
            image = read_image(path)
            image.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85)
            data = base64.b64encode(buffer.getvalue()).decode()
            shown = (
                f'<img src="data:image/jpeg;base64,{data}" alt="{name}" width="{image.width}" height="{image.height}">'
            )
        except UnreadableImage as error:
            shown = f"<p>{html.escape(error.reason)}</p>"
        items.append(f"<li><figure>{shown}<figcaption>{score:.3f} {name}</figcaption></figure></li>")
    return _PAGE.format(title=html.escape(title), items="\n".join(items))
