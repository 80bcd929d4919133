"""A small world in which the commands of the docs run as they stand: under the names that the docs use lie small models
and few images, and no training is longer than a few steps."""

from __future__ import annotations

import io
import sys
import tarfile
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from steadyclip.core import extensions
from steadyclip.data.builtin import BuiltIn
from steadyclip.methods import Recipe, registry
from steadyclip.models.testing import write_tiny

STEPS = 3
CLASSES = ("violin", "oak", "birch", "kettle", "drum", "anchor", "red bicycle", "moon")
IN_LAB = (*CLASSES, *(f"thing {i}" for i in range(18)))
SPLITS = {"train": 16, "val": 4, "test": 4}
"""Images of a class in the lab: 104 to validate, enough for a calibration."""
DOMAINS = ("plain", "wild", "emoji")
DATA = ("lab-things", "lab-food", "lab-people", "lab-robust")
PHOTO_MODEL = "openai/clip-vit-base-patch16"


def png(seed: int) -> bytes:
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((40, 36), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def folder(place: Path, seed: int, images: int = 34) -> None:
    """Images of one's own: `class/image`."""
    for number, name in enumerate(CLASSES):
        (place / name).mkdir(parents=True)
        for i in range(images):
            (place / name / f"{i}.png").write_bytes(png(seed + 1000 * number + i))


def table(place: Path, name: str) -> Path:
    """What a built-in data set consists of."""
    rows: list[dict[str, Any]] = []
    for domain in DOMAINS if name == "lab-robust" else (None,):
        for label in IN_LAB:
            for split, images in SPLITS.items():
                for _ in range(images):
                    seed = 10_000 * (1 + DATA.index(name)) + len(rows)
                    row = {"path": f"{len(rows)}.png", "image": png(seed), "label": label, "split": split}
                    rows.append(row | ({"domain": domain} if domain else {}) | {"caption": f"a picture of a {label}"})
    parquet.write_table(pa.Table.from_pylist(rows), place / f"{name}.parquet")
    return place / f"{name}.parquet"


def pool(place: Path) -> Path:
    """Image-text pairs."""
    rows = [{"image": png(i), "text": f"thing {i}", "caption": f"a drawing of thing {i}"} for i in range(60)]
    parquet.write_table(pa.Table.from_pylist(rows), place / "pool.parquet")
    return place / "pool.parquet"


@pytest.fixture(scope="module")
def lab(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built-in names stand for small data, and trainings take a few steps."""
    place = tmp_path_factory.mktemp("lab")
    module = types.ModuleType("small_lab")
    points: dict[str, dict[str, EntryPoint]] = {extensions.DATA: {}, extensions.MODELS: {}, extensions.POOLS: {}}

    def add(group: str, name: str, value: object) -> None:
        attribute = name.replace("-", "_")
        setattr(module, attribute, value)
        points[group][name] = EntryPoint(name, f"small_lab:{attribute}", group)

    for name in DATA:
        file = table(place, name)
        add(extensions.DATA, name, BuiltIn(lambda file=file: file, ("lab-people",)))
    add(extensions.MODELS, "icons-small", model)
    pairs = pool(place)
    add(extensions.POOLS, "lab-pool", lambda: pairs)

    every, length = extensions.extensions, Recipe.total_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "small_lab", module)
        patch.setattr(extensions, "extensions", lambda group: {**every(group), **points.get(group, {})})
        patch.setattr(Recipe, "total_steps", lambda *arguments: min(STEPS, length(*arguments)))
        extensions.load_extension.cache_clear()
        yield place
    extensions.load_extension.cache_clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights."""
    place = tmp_path_factory.mktemp("model")
    write_tiny("clip", place)
    return place


@pytest.fixture
def own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: images of one's own, and a model under the id that it has on the hub."""
    for seed, name in enumerate(("photos", "other-photos")):
        folder(tmp_path / name, seed * 10_000_000)
    for name in ("new-photos", "pics"):
        (tmp_path / name).mkdir()
        for i in (0, 21):
            (tmp_path / name / f"{i}.png").write_bytes(png(i))
    (tmp_path / "pics" / "broken.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as tar:
        for i in range(10):
            for suffix, data in ((".png", png(i)), (".txt", f"thing {i}".encode())):
                member = tarfile.TarInfo(f"{i:03}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (tmp_path / "openai").mkdir()
    (tmp_path / PHOTO_MODEL).symlink_to(model)
    for found in ("_REGISTRY", "_ORIGINS"):  # a page may bring a method of its own
        monkeypatch.setattr(registry, found, dict(getattr(registry, found)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def world(lab: Path, own: Path) -> Path:
    """Everything that the docs name, made small."""
    return own
