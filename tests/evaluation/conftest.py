"""A tiny model and a handful of images."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from steadyclip.data.images import FileStore, ImageSet
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="session")
def model() -> DualEncoder:
    return tiny("clip")


def _make_pictures(folder: Path, count: int = 24, seed: int = 0) -> ImageSet:
    """``count`` images of noise, labels in turn."""
    rng = random.Random(seed)
    keys, labels = [], []
    for i in range(count):
        key = f"{CLASSES[i % 3]}/{i:02d}.png"
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (40, 36), rng.randbytes(40 * 36 * 3)).save(folder / key)
        keys.append(key)
        labels.append(i % 3)
    nothing = (None,) * count
    templates = ("a photo of a {}.", "art of the {}.")
    return ImageSet(
        "noise", CLASSES, templates, tuple(keys), tuple(labels), ("lines",) * count, nothing, FileStore(folder), 0.5
    )


@pytest.fixture
def make_pictures() -> Callable[..., ImageSet]:
    return _make_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    return _make_pictures(tmp_path / "images")


@pytest.fixture
def pixels_and_labels(model: DualEncoder, pictures: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """What a bare loop would feed the model."""
    pixels = torch.stack([model.preprocess(pictures.read(i)) for i in range(len(pictures))])
    return pixels, torch.tensor(pictures.labels)
