"""Which drawings are the same: teams borrow shapes from each other, and pixels tell where names do not."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from steadyclip.core.errors import DataError
from steadyclip.core.processes import worker_processes
from steadyclip_lab.drawings.sets import Drawing

SAME = 0.95
"""Correlation of two prints from which two drawings count as the same."""
SIDE = 24
"""Pixels of a print, width and height."""


def rendered(drawing: Drawing, size: int = 64) -> bytes | None:
    """PNG on a transparent ground, black where the drawing has no colors of its own; None if it cannot be drawn."""
    import resvg_py

    svg = drawing.svg.replace("currentColor", "#000")
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))
    except ValueError:
        return None


def all_rendered(drawings: Sequence[Drawing], workers: int) -> Iterator[tuple[bytes | None, np.ndarray | None]]:
    """For each drawing its PNG and its print, or None where it cannot be drawn or shows nothing."""
    with worker_processes(workers) as pool:
        yield from pool.map(_one, drawings, chunksize=256)


def _one(drawing: Drawing) -> tuple[bytes | None, np.ndarray | None]:
    png = rendered(drawing)
    return png, None if png is None else print_of(png)


def print_of(png: bytes) -> np.ndarray | None:
    """The ink within its own square on white, ``SIDE`` x ``SIDE``, centered, of length 1; None when nothing is seen."""
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ink = ImageOps.invert(Image.alpha_composite(ground, image).convert("L"))
    box = ink.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    # cut a little more than asked, then area-average: `reduce` alone needs whole factors
    square = ink.transform(
        (2 * SIDE, 2 * SIDE), Image.Transform.EXTENT, (x - half, y - half, x + half, y + half),
        Image.Resampling.BILINEAR,
    ).reduce(2)  # fmt: skip
    values = np.asarray(square, dtype=np.float32).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else None


def equals(first_NP: np.ndarray, second_MP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each print of ``first_NP`` the place of the nearest in ``second_MP`` (N,) and their correlation (N,)."""
    if not len(second_MP):
        raise DataError("there are no drawings to compare with.")
    places, best = [], []
    for start in range(0, len(first_NP), 2048):
        found_BM = first_NP[start : start + 2048] @ second_MP.T
        places.append(found_BM.argmax(1))
        best.append(found_BM.max(1))
    return np.concatenate(places), np.concatenate(best)
