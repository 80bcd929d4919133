"""From an image to the pixels that a checkpoint was trained on. PIL, numpy and torch only."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadyclip.core.errors import ModelError
from steadyclip.data.decode import FULL_SIZE, to_rgb
from steadyclip.data.pixels import Interpolation, Pixels

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


_RATIOS = 3 / 4, 4 / 3
"""Width over height of a random crop."""
_LARGEST_RESIZE = 8
"""How much larger than what the model sees an image may be made before it is cropped."""


@dataclass(frozen=True)
class Preprocess(Pixels):
    """The image transform that belongs to the weights.

    Calling it gives what the model reads in an evaluation, (3, H, W) float32; ``train`` gives a random crop and flip of
    the same size. Both are in two steps, ``normalize`` of ``pixels`` or ``train_pixels``, since bytes are a quarter of
    the floats that go to an accelerator.
    """

    def __call__(self, image: Image.Image) -> Tensor:
        """What the model reads of one image: (3, H, W) float32, equal to the checkpoint's own processor."""
        return self.normalize(self.pixels(image))

    def train(self, image: Image.Image, rng: random.Random, scale: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        """``train_pixels``, normalized: (3, H, W) float32."""
        return self.normalize(self.train_pixels(image, rng, scale))

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32 of the same shape, on the same device; what is float already stays as it is.

        A table gives the value of each of the 256 levels, the same on every device.
        """
        if pixels.dtype != torch.uint8:
            return pixels
        table, first_C11 = _levels(self, pixels.device)
        return table.index_select(0, (pixels.int() + first_C11).flatten()).view(pixels.shape)

    def pixels(self, image: Image.Image) -> Tensor:
        """Evaluation pixels of one image: (3, H, W) uint8."""
        return _bytes(self.levels(image))

    def train_pixels(self, image: Image.Image, rng: random.Random, scale: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        """Training pixels of one image: a random resized crop and a horizontal flip half of the time.

        The crop covers a share of the image drawn from ``scale`` at an aspect ratio drawn log-uniformly from 3/4 to
        4/3 (the crop of Szegedy et al., 2015, as torchvision does it). All randomness comes from ``rng``.

        Returns:
            (3, H, W) uint8.
        """
        height, width = self.size
        full: tuple[int, int] = image.info.get(FULL_SIZE, image.size)  # the same crop, at whatever size it was decoded
        left, top, right, bottom = _random_box(full, rng, scale)
        x, y = image.width / full[0], image.height / full[1]
        image = to_rgb(image).resize((width, height), self.filter, box=(x * left, y * top, x * right, y * bottom))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _bytes(np.asarray(image))

    def enough(self, smallest_crop: float) -> float:
        """Pixels a side, as the geometric mean of both, of which ``train`` never has to enlarge a crop."""
        return max(self.size) / math.sqrt(_RATIOS[0] * smallest_crop)

    @classmethod
    def read(cls, folder: Path, family: str) -> tuple[Preprocess, dict[str, Any]]:
        """The transform described by a checkpoint folder, and the description itself (saved again with the weights).

        Raises:
            ModelError: there is no description, or it asks for something that this transform does not do.
        """
        path = folder / "preprocessor_config.json"
        if path.is_file():
            config = read_json(path)
        else:  # transformers 5 may keep everything in one file
            path = folder / "processor_config.json"
            config = read_json(path).get("image_processor") if path.is_file() else None
        if not isinstance(config, dict) or not config:
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
        factor = config.get("rescale_factor", 1 / 255)
        if not isinstance(factor, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-3):
            raise ModelError(f"{source}: rescale_factor is {factor!r}; only 1/255 (0.00392...) is supported.")
        if config.get("do_pad"):
            raise ModelError(f"{source}: do_pad=true is not supported.")
        filters = {int(Image.Resampling[name.upper()]): name for name in get_args(Interpolation)}
        if config["resample"] not in filters:
            known = ", ".join(f"{number} ({name})" for number, name in filters.items())
            raise ModelError(f"{source}: resample is {config['resample']!r}, not one of {known}.")
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
            interpolation=filters[config["resample"]],
        ).checked(source)

    def checked(self, source: str) -> Preprocess:
        """The transform itself. Raises ``ModelError`` where ``source`` gives values that cannot be meant."""
        for name, values, low in (("image_mean", self.mean, -math.inf), ("image_std", self.std, 0.0)):
            numbers = all(isinstance(value, float) and low < value < math.inf for value in values)
            if len(values) != 3 or not numbers:
                allowed = "three numbers" if low else "three numbers above 0"
                raise ModelError(f"{source}: {name} is {list(values)}, not {allowed}.")
        for side, final in zip(self.resize_to, self.size, strict=True):
            if final < 1 or not 1 <= side <= _LARGEST_RESIZE * final:
                raise ModelError(
                    f"{source}: size is {side} pixels for images of {final}; it must be 1 or more, and at most "
                    f"{_LARGEST_RESIZE} times that."
                )
        return self


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. Raises ``ModelError`` where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object.")
    return content


def _pair(size: Any, source: str) -> tuple[int, int]:
    """A size as old and new processors write it -> (height, width)."""
    pair: Any = (size, size)
    if isinstance(size, (list, tuple)):
        pair = tuple(size)
    elif isinstance(size, Mapping):
        edge = size.get("shortest_edge") if not size.get("longest_edge") else None
        pair = (size.get("height", edge), size.get("width", edge))
    if len(pair) == 2 and all(type(side) is int for side in pair):
        return pair
    raise ModelError(f"{source}: image size {size!r} is not understood; height and width, or shortest_edge, are.")


def _triple(values: Any) -> tuple[Any, Any, Any]:
    """One value for all channels, or one for each; ``Preprocess.checked`` looks at them."""
    channels = values if isinstance(values, (list, tuple)) else (values,) * 3
    return tuple(float(value) if type(value) is int else value for value in channels)  # pyright: ignore[reportReturnType]


@functools.lru_cache(maxsize=16)
def _levels(pixels: Pixels, device: torch.device) -> tuple[Tensor, Tensor]:
    """The values of the levels 0 to 255, channel after channel, (768,) float32; and where each channel's begin."""
    table_CV1 = pixels.normalized(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 1, 3)))
    first_C11 = torch.arange(0, 768, 256, dtype=torch.int32, device=device).view(3, 1, 1)
    return torch.from_numpy(table_CV1.flatten()).to(device), first_C11


def _bytes(levels_HWC: np.ndarray) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(levels_HWC.transpose(2, 0, 1).copy())


def _random_box(
    size: tuple[int, int], rng: random.Random, scale: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A random (left, top, right, bottom) inside an image of ``size`` (width, height); its center after ten misses."""
    width, height = size
    low, high = map(math.log, _RATIOS)
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
