"""From an image to the pixels that a checkpoint was trained on. PIL, numpy and torch only.

Shapes: H W C pixels as PIL has them, C H W as models want them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadyclip.core.errors import ModelError

# What the checkpoint classes of transformers assume where the file is silent.
_CLIP_DEFAULTS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_SIGLIP_DEFAULTS = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}


@dataclass(frozen=True)
class Preprocess:
    """The image transform that belongs to the weights.

    Calling it gives the evaluation pixels, (3, H, W) float32; ``train`` gives a random crop and flip of the same size.

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
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bicubic"
    crop_rounding: Literal["down", "even"] = "down"

    def __call__(self, image: Image.Image) -> Tensor:
        """Evaluation pixels of one image: (3, H, W) float32, equal to the checkpoint's own processor."""
        image = _rgb(image)
        height, width = self.resize_to
        if self.resize == "shortest":
            short, long = sorted(image.size)
            edge, stretched = height, int(height * long / short)
            height, width = (stretched, edge) if image.width <= image.height else (edge, stretched)
        image = image.resize((width, height), self._filter)
        if self.crop:
            top, left = (self._offset(have, want) for have, want in zip((height, width), self.size, strict=True))
            image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return self._normalize(image)

    def train(self, image: Image.Image, rng: random.Random, scale: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        """Training pixels of one image: a random resized crop and a horizontal flip half of the time.

        The crop covers a share of the image drawn from ``scale`` at an aspect ratio drawn log-uniformly from 3/4 to
        4/3 (the crop of Szegedy et al., 2015, as torchvision does it). All randomness comes from ``rng``.

        Returns:
            (3, H, W) float32.
        """
        image = _rgb(image)
        height, width = self.size
        image = image.resize((width, height), self._filter, box=_random_box(image.size, rng, scale))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalize(image)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _offset(self, have: int, want: int) -> int:
        return (have - want) // 2 if self.crop_rounding == "down" else round((have - want) / 2)

    def _normalize(self, image: Image.Image) -> Tensor:
        # The same steps and roundings as transformers' numpy code, so that pixels are equal bit for bit.
        pixels_HWC = (np.asarray(image, np.float64) * (1 / 255)).astype(np.float32)
        pixels_HWC = (pixels_HWC - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))

    @classmethod
    def read(cls, folder: Path, family: str) -> tuple[Preprocess, dict[str, Any]]:
        """The transform described by a checkpoint folder, and the description itself (saved again with the weights).

        Raises:
            ModelError: there is no description, or it asks for something that this transform does not do.
        """
        path = folder / "preprocessor_config.json"
        if path.is_file():
            config = json.loads(path.read_text())
        else:  # transformers 5 may keep everything in one file
            path = folder / "processor_config.json"
            config = json.loads(path.read_text()).get("image_processor") if path.is_file() else None
        if not config:
            raise ModelError(
                f"{folder}: preprocessor_config.json is missing; copy it from the checkpoint's source, "
                "it holds the image size, mean and std."
            )
        return cls.parse(config, family, str(path)), config

    @classmethod
    def parse(cls, config: Mapping[str, Any], family: str, source: str) -> Preprocess:
        """The transform that the image processor settings of a transformers checkpoint describe."""
        given = {key: value for key, value in config.items() if value is not None}
        config = {**(_CLIP_DEFAULTS if family == "clip" else _SIGLIP_DEFAULTS), **given}
        for switch in ("do_resize", "do_rescale", "do_normalize"):
            if not config.get(switch, True):
                raise ModelError(f"{source}: {switch}=false is not supported; images must be resized and normalized.")
        if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3) or config.get("do_pad"):
            raise ModelError(f"{source}: rescale_factor other than 1/255 and do_pad=true are not supported.")
        resize_to = _pair(config["size"], source)
        square = isinstance(config["size"], Mapping) and "height" in config["size"]
        crop = bool(config["do_center_crop"])
        if not square and not crop:
            raise ModelError(f"{source}: resizing the shorter side without a crop gives images of many sizes.")
        return cls(
            size=_pair(config["crop_size"], source) if crop else resize_to,
            resize="squash" if square else "shortest",
            resize_to=resize_to,
            crop=crop,
            mean=_triple(config["image_mean"]),
            std=_triple(config["image_std"]),
            interpolation=Image.Resampling(config["resample"]).name.lower(),  # pyright: ignore[reportArgumentType]
        )


def _pair(size: Any, source: str) -> tuple[int, int]:
    """A size as old and new processors write it -> (height, width)."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        if size.get("shortest_edge") and not size.get("longest_edge"):
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    raise ModelError(f"{source}: image size {size!r} is not understood; height and width, or shortest_edge, are.")


def _triple(values: Any) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        return float(values), float(values), float(values)
    red, green, blue = values
    return float(red), float(green), float(blue)


def _rgb(image: Image.Image) -> Image.Image:
    """RGB, with transparency laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _random_box(
    size: tuple[int, int], rng: random.Random, scale: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A random (left, top, right, bottom) inside an image of ``size`` (width, height); its center after ten misses."""
    width, height = size
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
