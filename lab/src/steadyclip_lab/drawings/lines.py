"""The line layer of OpenMoji: what is left when the colored areas are taken away."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from steadyclip_lab.drawings.sets import Drawing

_BLACK = {"#000", "#000000", "black"}
_SHAPES = {"path", "circle", "ellipse", "rect", "line", "polyline", "polygon", "use"}


def line_layer(drawing: Drawing) -> Drawing | None:
    """The drawing's black strokes and black areas in the ink's color; None if it has none."""
    root = ElementTree.fromstring(f'<g xmlns:xlink="http://www.w3.org/1999/xlink">{drawing.body}</g>')
    _strip(root, "#000", "none")
    if not any(_tag(one) in _SHAPES for one in root.iter() if one is not root):
        return None
    body = "".join(ElementTree.tostring(one, encoding="unicode") for one in root)
    body = re.sub(r'"(#000|#000000|black)"', '"currentColor"', body)
    return replace(drawing, body=body, icon=f"{drawing.icon}-line", style="line", colored=False)


def _strip(parent: ElementTree.Element, fill: str, stroke: str) -> None:
    for child in list(parent):
        if _tag(child) == "defs":
            continue
        own_fill, own_stroke = child.get("fill", fill), child.get("stroke", stroke)
        if _tag(child) == "g":
            _strip(child, own_fill, own_stroke)
            continue
        black_fill, black_stroke = own_fill in _BLACK, own_stroke in _BLACK
        if not black_fill and not black_stroke:
            parent.remove(child)
        else:
            child.set("fill", "#000" if black_fill else "none")
            child.set("stroke", "#000" if black_stroke else "none")


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
