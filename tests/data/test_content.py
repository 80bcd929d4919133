"""The hash over what images are: blind to names, not to bytes."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from steadyclip.data import content
from steadyclip.data.images import FileStore, ImageSet, ParquetStore, row_key
from steadyclip.data.task import ImageTask

HOUR_AGO = 1_700_000_000


def folder(path: Path, count: int = 6, prefix: str = "", seed: int = 0) -> ImageSet:
    """``count`` files of noise; nothing is decoded here."""
    path.mkdir(parents=True)
    rng = random.Random(seed)
    keys = tuple(f"{prefix}{i}.png" for i in range(count))
    for key in keys:
        (path / key).write_bytes(rng.randbytes(200))
        os.utime(path / key, (HOUR_AGO, HOUR_AGO))
    return image_set(keys, FileStore(path))


def image_set(keys: tuple[str, ...], store) -> ImageSet:
    blank = (None,) * len(keys)
    return ImageSet("x", ("a", "b"), ("{}",), keys, tuple(i % 2 for i in range(len(keys))), blank, blank, store)


@pytest.fixture(autouse=True)
def a_fresh_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEADYCLIP_CACHE", str(tmp_path / "cache"))
    content._known.clear()


def test_the_same_images_under_other_names_and_in_a_table(tmp_path: Path) -> None:
    images = folder(tmp_path / "a")
    assert len(images.content) == 16
    renamed = folder(tmp_path / "b" / "deep", prefix="other-")
    assert renamed.content == images.content
    assert renamed.hash != images.hash
    turned = images.subset(reversed(range(len(images))))
    assert turned.content == images.content
    bytes_ = [images.store.read(key) for key in images.keys]
    parquet.write_table(pa.table({"image": pa.array(bytes_, pa.binary())}), tmp_path / "t.parquet")
    table = image_set(tuple(row_key(i + 1) for i in range(6)), ParquetStore(tmp_path / "t.parquet", "image"))
    assert table.content == images.content


def test_one_changed_file_under_the_same_name(tmp_path: Path) -> None:
    images = folder(tmp_path / "a")
    before = images.content
    file = tmp_path / "a" / images.keys[3]
    file.write_bytes(file.read_bytes()[::-1])  # the same size, and young
    after = images.content
    assert after != before
    file.write_bytes(file.read_bytes()[::-1])
    assert images.content == before
    file.unlink()
    assert images.content not in (before, after)


def test_labels_classes_and_borders_count(tmp_path: Path) -> None:
    images = folder(tmp_path / "a")
    others = [
        dataclasses.replace(images, labels=images.labels[::-1]),
        dataclasses.replace(images, classes=("b", "a")),
        dataclasses.replace(images, border=2),
        images.subset(range(5)),
    ]
    assert len({images.content, *(other.content for other in others)}) == 5
    assert dataclasses.replace(images, name="y", templates=("an {}",)).content == images.content


def test_a_task_also_knows_its_captions_and_which_part_is_for_validation(tmp_path: Path) -> None:
    images = folder(tmp_path / "a")
    train, val = images.subset(range(4)), images.subset((4, 5))
    task = ImageTask("x", train, val, None, 1, "all")
    captioned = dataclasses.replace(task, train=dataclasses.replace(train, captions=("a dog",) * 4))
    swapped = dataclasses.replace(task, train=val, val=train)
    assert len({task.content, captioned.content, swapped.content}) == 3


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    read = FileStore.read
    monkeypatch.setattr(FileStore, "read", lambda self, key: reads.append(key) or read(self, key))
    return reads


def test_a_file_is_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder(tmp_path / "a")
    reads = count_reads(monkeypatch)
    first = images.content
    assert sorted(reads) == sorted(images.keys)
    assert images.subset(range(6)).content == first
    assert len(reads) == 6
    os.utime(tmp_path / "a" / "2.png", (HOUR_AGO + 1, HOUR_AGO + 1))
    assert images.content == first
    assert reads[6:] == ["2.png"]
    assert not (tmp_path / "cache").exists()  # too few for a file


def test_a_large_set_is_read_once_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_WORTH_A_FILE", 6)
    images = folder(tmp_path / "a")
    first = images.content
    (cache,) = (tmp_path / "cache" / "content").iterdir()
    reads = count_reads(monkeypatch)
    content._known.clear()
    assert images.content == first
    assert not reads
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "a" / "0.png")
    content._known.clear()
    assert images.content != first
    assert reads == ["0.png"]
    cache.write_text('{"0.png": [1, ')  # damaged
    content._known.clear()
    reads.clear()
    images.content  # noqa: B018
    assert len(reads) == 6
