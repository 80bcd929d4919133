"""Drawings of the pretraining half that look like one of the downstream half: teams borrow shapes from each other.

Names do not tell (a `favorite-border` is a `heart`), pixels do. ``tables/same.tsv`` lists what was found in the tested
versions of the packs; the pretraining pairs leave these drawings out. ``recipes/icons-same.sh`` makes the list anew.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from steadyclip_lab.icons.packs import DOWNSTREAM, PRETRAINING, Drawing, drawings
from steadyclip_lab.icons.render import render

if TYPE_CHECKING:
    from torch import Tensor

SAME = 0.97
"""Correlation from which two drawings count as the same. Below it stand different things with one outline, such as a
full clock and a full warning sign."""
SIDE = 32
"""Pixels, width and height, that drawings are compared at."""

_LIST = Path(__file__).parent / "tables" / "same.tsv"


@cache
def same() -> dict[str, str]:
    """Key of a pretraining drawing -> key of the downstream drawing that it equals, as listed."""
    lines = [line.split("\t") for line in _LIST.read_text().splitlines() if not line.startswith("#")]
    return {key: other for key, other, _ in lines}


def find_same(first: Iterable[Drawing], second: Iterable[Drawing]) -> Iterator[tuple[str, str, float]]:
    """Each drawing of ``first`` that some of ``second`` equals: its key, that one's key, their correlation."""
    first_keys, first_NP = _prints(first)
    second_keys, second_MP = _prints(second)
    for start in range(0, len(first_keys), 2048):
        best_N, which_N = (first_NP[start : start + 2048] @ second_MP.T).max(1)
        for key, best, which in zip(first_keys[start:], best_N.tolist(), which_N.tolist(), strict=False):
            if best >= SAME:
                yield key, second_keys[which], best


def _prints(chosen: Iterable[Drawing]) -> tuple[list[str], Tensor]:
    """Keys, and what is compared: the ink within its own square, a little blurred, centered, of length 1."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image, ImageOps

    keys, ink = [], []
    for drawing in chosen:
        image = ImageOps.invert(Image.open(io.BytesIO(render(drawing))).convert("L"))
        if box := image.getbbox():  # a few drawings are empty on purpose
            left, top, right, bottom = box
            half = max(right - left, bottom - top) / 2
            x, y = (left + right) / 2, (top + bottom) / 2
            square = image.transform(
                (SIDE, SIDE),
                Image.Transform.EXTENT,
                (x - half, y - half, x + half, y + half),
                Image.Resampling.BILINEAR,
            )
            keys.append(drawing.key)
            ink.append(torch.from_numpy(np.asarray(square, dtype=np.float32)))
    blurred_NP = F.avg_pool2d(torch.stack(ink)[:, None], 3, 1, 1).flatten(1)
    return keys, F.normalize(blurred_NP - blurred_NP.mean(1, keepdim=True), dim=1)


def main() -> None:
    """Prints the list."""
    halves = [[d for pack in packs for d in drawings(pack) if not d.colored] for packs in (PRETRAINING, DOWNSTREAM)]
    print(
        "# A drawing of the pretraining half, the drawing of the downstream half that it equals, correlation of their"
    )
    print(f"# pixels from {SAME}; color emoji are not compared. Made by recipes/icons-same.sh")
    for key, other, correlation in find_same(*halves):
        print(f"{key}\t{other}\t{correlation:.3f}")
