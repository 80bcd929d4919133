"""From an image to the pixels that a model wants, by Pillow and numpy alone, so that exports can do it without torch.

Shapes: H W C pixels as Pillow has them, C H W as models want them; ... stands for no dimension or a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from steadyclip.data.decode import to_rgb

Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


@dataclass(frozen=True)
class Pixels:
    """The image transform of a checkpoint, as plain numbers.

    Args:
        size: height and width in pixels of what the model sees.
        resize: "shortest" scales the shorter side to ``resize_to``, "squash" ignores the aspect ratio.
        resize_to: target of the resize, (height, width); "shortest" takes the first.
        crop: cut the center of ``size`` out of the resized image.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        interpolation: the filter of the resize.
        crop_rounding: where the center falls between two pixels, "down" as transformers does it, or "even" (half to
            even) as torchvision, hence open_clip, does it.
    """

    size: tuple[int, int]
    resize: Literal["shortest", "squash"]
    resize_to: tuple[int, int]
    crop: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    crop_rounding: Literal["down", "even"] = "down"

    def levels(self, image: Image.Image) -> np.ndarray:
        """The resized and cropped image, (H, W, 3) uint8."""
        image = to_rgb(image)
        height, width = self.resize_to
        if self.resize == "shortest":
            short, long = sorted(image.size)
            edge, stretched = height, int(height * long / short)
            height, width = (stretched, edge) if image.width <= image.height else (edge, stretched)
        image = image.resize((width, height), self.filter)
        if self.crop:
            top, left = (self._offset(have, want) for have, want in zip((height, width), self.size, strict=True))
            image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return np.asarray(image)

    def normalized(self, levels_HWC: np.ndarray) -> np.ndarray:
        """Levels (..., H, W, 3) -> pixels (..., 3, H, W) float32."""
        # The same steps and roundings as transformers' numpy code, so that pixels are equal bit for bit.
        pixels_HWC = (levels_HWC.astype(np.float64) * (1 / 255)).astype(np.float32)
        pixels_HWC = (pixels_HWC - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(pixels_HWC, -1, -3))

    @property
    def filter(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        return Image.Resampling[self.interpolation.upper()]

    def _offset(self, have: int, want: int) -> int:
        return (have - want) // 2 if self.crop_rounding == "down" else round((have - want) / 2)
