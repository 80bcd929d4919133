"""Images that are the same to the eye though not by their bytes: saved again, scaled, or in another format.

Shapes: N and M images, P numbers of a small picture of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from steadyclip.data.content import threads
from steadyclip.data.decode import UnreadableImage

if TYPE_CHECKING:
    from steadyclip.data.images import ImageSet

_SIDE, _BLOCK = 16, 512
_CLOSE = 5.0
"""Root mean square difference of two small pictures, in gray levels of 255, below which they are copies."""
_PLAIN = 8.0
"""Standard deviation below which a picture is too plain to tell: two white pages are no copies."""


def copies(images: ImageSet, of: ImageSet) -> dict[str, str]:
    """Those of ``images`` that look exactly like one of ``of``: key -> key of the other. Reads every image.

    Mirrored, cropped or recolored images are not found, and pictures without any structure are left alone.
    """
    if not len(images) or not len(of):
        return {}
    pictures_NP, pictures_MP = _small(images), _small(of)
    squares_M = np.square(pictures_MP).sum(axis=1)
    found: dict[str, str] = {}
    for start in range(0, len(pictures_NP), _BLOCK):
        part_BP = pictures_NP[start : start + _BLOCK]
        distance_BM = np.square(part_BP).sum(axis=1)[:, None] + squares_M - 2 * part_BP @ pictures_MP.T
        nearest_B = distance_BM.argmin(axis=1)
        for i, (place, picture) in enumerate(zip(nearest_B, part_BP, strict=True)):
            # once more by subtraction: the product of large numbers is not exact
            difference = np.square(picture - pictures_MP[place]).mean() ** 0.5
            if picture.std() >= _PLAIN and difference < _CLOSE:
                found[images.keys[start + i]] = of.keys[place]
    return found


def _small(images: ImageSet) -> np.ndarray:
    """(N, P) float32 levels of each image, scaled to 16 x 16 pixels; those of one that cannot be read are far off."""

    def small(index: int) -> np.ndarray:
        try:
            image = images.read(index)
        except UnreadableImage:
            return np.full(3 * _SIDE**2, -1e4 * (index + 2), np.float32)
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).ravel()

    with threads(4) as pool:
        return np.stack([*pool.map(small, range(len(images)))])
