"""Images that are the same to the eye though not by their bytes: saved again, scaled, mirrored, or a little brighter.

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
"""Root mean square difference of two small pictures around their means, below which they are copies; levels of 255."""
_BRIGHTER = 30.0
"""Difference of the mean levels of two pictures above which they are no copies."""
_PLAIN = 8.0
"""Standard deviation below which a picture is too plain to tell: two white pages are no copies."""


def copies(images: ImageSet, of: ImageSet) -> dict[str, str]:
    """Those of ``images`` that look exactly like one of ``of``: key -> key of the other. Reads every image.

    The mirror image of one of the same class counts; that of another class may be one indeed (arrows to the left and to
    the right). Cropped, turned or recolored images are not found, and pictures without any structure are left alone.
    """
    if not len(images) or not len(of):
        return {}
    (pictures_NP, mean_N), (pictures_MP, mean_M) = _small(images), _small(of)
    mirrored_NP = pictures_NP.reshape(-1, _SIDE, _SIDE, 3)[:, :, ::-1].reshape(pictures_NP.shape)
    squares_M = np.square(pictures_MP).sum(axis=1)
    found: dict[str, str] = {}
    for start in range(0, len(pictures_NP), _BLOCK):
        for every_NP in (pictures_NP, mirrored_NP):
            part_BP = every_NP[start : start + _BLOCK]
            distance_BM = np.square(part_BP).sum(axis=1)[:, None] + squares_M - 2 * part_BP @ pictures_MP.T
            nearest_B = distance_BM.argmin(axis=1)
            for i, (place, picture) in enumerate(zip(nearest_B, part_BP, strict=True), start):
                # once more by subtraction: the product of large numbers is not exact
                difference = np.square(picture - pictures_MP[place]).mean() ** 0.5
                alike = difference < _CLOSE and abs(mean_N[i] - mean_M[place]) < _BRIGHTER
                own_class = images.classes[images.labels[i]] == of.classes[of.labels[place]]
                if alike and picture.std() >= _PLAIN and (own_class or every_NP is pictures_NP):
                    found.setdefault(images.keys[i], of.keys[place])
    return found


def _small(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """(N, P) float32 levels of each image, scaled to 16 x 16 pixels and less their mean, and that mean (N,); one that
    cannot be read is like no other."""

    def small(index: int) -> np.ndarray:
        try:
            image = images.read(index)
        except UnreadableImage:
            return np.zeros(3 * _SIDE**2, np.float32)  # without structure
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).ravel()

    with threads(4) as pool:
        levels_NP = np.stack([*pool.map(small, range(len(images)))])
    mean_N = levels_NP.mean(axis=1)
    return levels_NP - mean_N[:, None], mean_N
