"""Images that are the same to the eye."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from steadyclip.data.copies import copies
from steadyclip.data.images import FileStore, ImageSet


def image_set(folder: Path, pictures: dict[str, Image.Image]) -> ImageSet:
    folder.mkdir()
    for name, picture in pictures.items():
        picture.save(folder / name)
    nothing = (None,) * len(pictures)
    return ImageSet("x", ("a",), ("{}",), tuple(pictures), (0,) * len(pictures), nothing, nothing, FileStore(folder))


def scene(seed: int) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(levels).resize((96, 80), Image.Resampling.BICUBIC)


def test_saved_again_or_scaled_but_not_others(tmp_path: Path) -> None:
    scenes = {f"{i}.png": scene(i) for i in range(40)}
    again = {
        "same.png": scene(3),
        "saved.jpg": scene(5),
        "small.png": scene(7).resize((60, 50), Image.Resampling.BICUBIC),
        "new.png": scene(99),
        "gray.png": scene(9).convert("L"),  # another picture to the eye
        "mirrored.png": scene(11).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "brighter.png": scene(13).point(lambda level: 0.95 * level + 12),
        "turned.png": scene(15).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    }
    found = copies(image_set(tmp_path / "again", again), image_set(tmp_path / "scenes", scenes))
    assert found == {
        "same.png": "3.png", "saved.jpg": "5.png", "small.png": "7.png", "mirrored.png": "11.png",
        "brighter.png": "13.png",
    }  # fmt: skip


def test_plain_and_broken_images_are_no_copies(tmp_path: Path) -> None:
    white = Image.new("RGB", (30, 30), "white")
    one, other = (image_set(tmp_path / name, {"white.png": white, "a.png": scene(1)}) for name in ("one", "other"))
    (tmp_path / "one" / "a.png").write_bytes(b"broken")
    (tmp_path / "other" / "a.png").write_bytes(b"broken")
    assert copies(one, other) == {}
    assert copies(one.subset([]), other) == {}
    assert copies(one, other.subset([])) == {}


def test_a_mirror_image_of_another_class_is_another_image(tmp_path: Path) -> None:
    mirrored = scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = image_set(tmp_path / "one", {"a.png": mirrored}), image_set(tmp_path / "other", {"a.png": scene(1)})
    assert copies(one, other) == {"a.png": "a.png"}
    assert copies(dataclasses.replace(one, classes=("b",)), other) == {}
