"""Equality with the image processors of transformers, bit for bit, and the training transform."""

from __future__ import annotations

import io
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steadyclip.core.errors import ModelError
from steadyclip.data.decode import decode
from steadyclip.models import Preprocess
from steadyclip.models.huggingface import import_transformers, quiet

CLIP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("clip", CLIP),
    ("clip", {"size": 37, "crop_size": 32}),  # as old files write it; an odd difference
    ("clip", {"size": {"shortest_edge": 20}, "crop_size": 32}),  # smaller than the crop: black borders
    ("clip", {"size": {"height": 40, "width": 45}, "crop_size": {"height": 32, "width": 33}, "resample": 2}),
    ("siglip", {"size": {"height": 32, "width": 32}}),
    ("siglip", {"size": {"height": 24, "width": 33}, "resample": 2, "image_mean": [0.1, 0.2, 0.3]}),
]
SIZES = [(32, 32), (33, 47), (101, 40), (7, 5), (224, 31), (500, 333), (1, 64)]  # width, height


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def stock(family: str, config: dict[str, Any]) -> Any:
    import_transformers()
    with quiet():
        if family == "clip":
            from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
        else:
            from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Processor
        return Processor(**config)


@pytest.mark.parametrize(("family", "config"), SETTINGS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers(family: str, config: dict[str, Any], size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = torch.as_tensor(np.asarray(stock(family, config)(image)["pixel_values"][0]))
    pixels = Preprocess.parse(config, family, "here")(image)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, expected)


# The stock processor of transformers 5.6 drops transparency; the tested version lays it on white, as we always do.
ALPHA = [pytest.param(mode, marks=pytest.mark.newest) for mode in ("RGBA", "LA")]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", *ALPHA, "CMYK", "1"])
def test_equals_transformers_in_every_color_mode(mode: str) -> None:
    image = picture(45, 33, mode)
    expected = torch.as_tensor(np.asarray(stock("clip", CLIP)(image)["pixel_values"][0]))
    assert torch.equal(Preprocess.parse(CLIP, "clip", "here")(image), expected)


@pytest.mark.parametrize(
    "config",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"do_center_crop": False},
        {"rescale_factor": 1.0},
        {"size": {"shortest_edge": 32, "longest_edge": 64}},
        {"size": {"max_height": 3, "max_width": 3}},
    ],
)
def test_settings_that_are_not_done_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"^here: "):
        Preprocess.parse({**CLIP, **config}, "clip", "here")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"image_std": [0, 0, 0]}, "image_std is [0.0, 0.0, 0.0], not three numbers above 0"),
        ({"image_std": ["a", 1, 1]}, "image_std is ['a', 1.0, 1.0], not three numbers above 0"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is [nan, nan, nan], not three numbers"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5], not three numbers"),
        ({"resample": 99}, "resample is 99, not one of 0 (nearest), 1 (lanczos)"),
        ({"resample": "x"}, "resample is 'x', not one of 0 (nearest), 1 (lanczos)"),
        ({"rescale_factor": "x"}, "rescale_factor is 'x'; only 1/255"),
        ({"size": {"shortest_edge": -5}}, "size is -5 pixels"),
        ({"size": {"shortest_edge": 60_000}}, "size is 60000 pixels"),
        ({"size": {"shortest_edge": "32"}}, "image size {'shortest_edge': '32'} is not understood"),
        ({"size": {"shortest_edge": True}}, "image size {'shortest_edge': True} is not understood"),
        ({"crop_size": {"height": 0, "width": 0}}, "size is 32 pixels for images of 0"),
    ],
)
def test_values_that_cannot_be_meant_are_named(config: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=re.escape(f"here: {line}")):
        Preprocess.parse({**CLIP, **config}, "clip", "here")


@pytest.mark.parametrize("content", ['{"size": 32', "[]", "\xff"])
def test_a_file_that_is_no_json_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"preprocessor_config.json: not "):
        Preprocess.read(tmp_path, "clip")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 1000))
def test_training_pixels_are_of_the_size_and_follow_the_seed(width: int, height: int, seed: int) -> None:
    transform = Preprocess.parse(CLIP, "clip", "here")
    image = picture(width, height)
    pixels = transform.train(image, random.Random(seed))
    assert pixels.shape == (3, 32, 32)
    assert pixels.isfinite().all()
    assert torch.equal(pixels, transform.train(image, random.Random(seed)))


def test_the_training_crop_covers_what_it_says() -> None:
    """On an image that is its own coordinates, the crop's corners can be read from the pixels."""
    transform = Preprocess((50, 50), "squash", (50, 50), False, (0.0,) * 3, (1.0,) * 3, interpolation="nearest")
    x, y = np.meshgrid(np.arange(200, dtype=np.uint8), np.arange(200, dtype=np.uint8))
    image = Image.fromarray(np.stack([x, y, x], -1), "RGB")
    rng, areas, flips = random.Random(0), [], 0
    for _ in range(400):
        pixels = transform.train(image, rng, scale=(0.25, 0.5)) * 255
        flips += bool(pixels[0, 0, 0] > pixels[0, 0, -1])
        # 50 samples stand in the middle of 50 equal parts
        wide, high = ((pixels[c].max() - pixels[c].min()) * 50 / 49 / 200 for c in (0, 1))
        areas.append(float(wide * high))
        assert 0.70 < wide / high < 1.43
    assert min(areas) > 0.24
    assert max(areas) < 0.53
    assert abs(sum(areas) / 400 - 0.375) < 0.02
    assert 160 < flips < 240


def test_training_on_the_whole_picture_is_the_evaluation_or_its_mirror() -> None:
    transform = Preprocess.parse({"size": {"height": 32, "width": 32}}, "siglip", "here")
    image = picture(40, 40)

    class Whole(random.Random):
        """Draws the full area at aspect ratio 1, and no flip."""

        def uniform(self, a: float, b: float) -> float:
            return 1.0 if a > 0 else 0.0

        def random(self) -> float:
            return 0.9

        def randint(self, a: int, b: int) -> int:
            return a

    assert torch.equal(transform.train(image, Whole(), scale=(1.0, 1.0)), transform(image))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_every_level_of_every_channel_is_that_of_transformers(family: str) -> None:
    levels_HWC = np.stack([np.roll(np.arange(256, dtype=np.uint8), 7 * c).reshape(16, 16) for c in range(3)], axis=-1)
    size = {"height": 16, "width": 16}
    config = {"size": size} if family == "siglip" else {"size": {"shortest_edge": 16}, "crop_size": size}
    image, ours = Image.fromarray(levels_HWC), Preprocess.parse(config, family, "test")
    expected = torch.as_tensor(stock(family, config)(image, return_tensors="pt")["pixel_values"][0])
    pixels = ours.pixels(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 16, 16))
    assert torch.equal(pixels, torch.from_numpy(levels_HWC).permute(2, 0, 1))
    assert torch.equal(ours.normalize(pixels), expected)
    assert torch.equal(ours.normalize(pixels.expand(2, 3, 16, 16))[1], expected)
    assert ours.normalize(expected) is expected  # done already


def test_a_large_photo_is_decoded_at_the_size_that_crops_need() -> None:
    """Never so small that a crop is enlarged, and nearly the same pixels."""
    photo = picture(60, 40).resize((2400, 1600), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=92)
    preprocess = Preprocess.parse(CLIP, "clip", "test")  # 32 pixels
    enough = preprocess.enough(0.08)
    assert enough == pytest.approx(32 / math.sqrt(0.75 * 0.08))
    whole, small = decode(buffer.getvalue(), "photo"), decode(buffer.getvalue(), "photo", enough=enough)
    assert whole.size == (2400, 1600)
    assert small.size == (300, 200)
    assert math.sqrt(small.width * small.height) >= enough
    for seed in range(5):
        full, less = (preprocess.train_pixels(image, random.Random(seed)).float() for image in (whole, small))
        assert (full - less).abs().mean() < 1.0  # of 255
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    photo.save(turned, "JPEG", quality=92, exif=exif)
    full, less = (decode(turned.getvalue(), "turned", enough=some) for some in (None, enough))
    assert (full.size, less.size) == ((1600, 2400), (200, 300))
    pixels = [preprocess.train_pixels(image, random.Random(0)).float() for image in (full, less)]
    assert (pixels[0] - pixels[1]).abs().mean() < 1.0
    assert decode(buffer.getvalue(), "photo", enough=2000.0).size == (2400, 1600)
    assert decode(buffer.getvalue(), "photo", enough=900.0).size == (1200, 800)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    assert decode(buffer.getvalue(), "drawing", enough=enough).size == (2400, 1600)
