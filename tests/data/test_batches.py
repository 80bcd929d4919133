from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadyclip.data import ImageSet, load_data, loader


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def jitter(image: Image.Image, rng: random.Random) -> torch.Tensor:
    return to_tensor(image) + rng.random()


@pytest.fixture
def images(folder) -> ImageSet:
    return load_data(folder({"train/a": 9, "train/b": 8, "val/a": 1, "val/b": 1})).splits["train"]


def as_lists(batches) -> list:
    return [(images.tolist(), labels.tolist(), index.tolist()) for images, labels, index in batches]


def image_of(batches: list, wanted: int) -> list:
    return next(images[index.index(wanted)] for images, _, index in batches if wanted in index)


def test_plain_pass(images: ImageSet):
    batches = loader(images, to_tensor, batch_size=5)
    assert len(batches) == 4
    pixels, labels, index = next(iter(batches))
    assert pixels.shape == (5, 3, 4, 6)
    assert (labels.dtype, index.dtype) == (torch.int64, torch.int64)
    seen = torch.cat([index for _, _, index in batches]).tolist()
    assert seen == list(range(17))
    assert torch.equal(pixels[1], to_tensor(images.read(1)))
    assert [labels.tolist() for _, labels, _ in batches] == [[0] * 5, [0] * 4 + [1], [1] * 5, [1] * 2]


def test_workers_change_nothing(images: ImageSet):
    options = {"batch_size": 4, "seed": 3, "epoch": 2, "augment": True}
    assert as_lists(loader(images, jitter, **options)) == as_lists(loader(images, jitter, workers=2, **options))


def test_spawned_workers_change_nothing(images: ImageSet):
    options = {"batch_size": 8, "seed": 3, "augment": True}
    spawned = loader(images, jitter, workers=1, **options)
    spawned.multiprocessing_context = "spawn"
    assert as_lists(spawned) == as_lists(loader(images, jitter, **options))


def test_seed_and_epoch_change_order_and_augmentation(images: ImageSet):
    first = as_lists(loader(images, jitter, batch_size=4, seed=3, augment=True))
    assert first == as_lists(loader(images, jitter, batch_size=4, seed=3, augment=True))
    for other in ({"seed": 4}, {"seed": 3, "epoch": 1}):
        second = as_lists(loader(images, jitter, batch_size=4, augment=True, **other))
        assert [index for *_, index in second] != [index for *_, index in first]
        by_index = [
            {i: image for images, _, index in run for i, image in zip(index, images, strict=True)}
            for run in (first, second)
        ]
        assert all(by_index[0][i] != by_index[1][i] for i in range(17))


def test_start_resumes_without_decoding(images: ImageSet, monkeypatch: pytest.MonkeyPatch):
    options = {"batch_size": 4, "seed": 1, "augment": True}
    whole = as_lists(loader(images, jitter, **options))
    read, original = [], ImageSet.read
    monkeypatch.setattr(
        ImageSet, "read", lambda images, index, *more: read.append(index) or original(images, index, *more)
    )
    assert as_lists(loader(images, jitter, start=2, **options)) == whole[2:]
    assert len(read) == 9


def test_shards_and_drop_last(images: ImageSet):
    options = {"batch_size": 6, "seed": 1, "drop_last": True}
    whole = [index for *_, index in as_lists(loader(images, to_tensor, **options))]
    assert [len(index) for index in whole] == [6, 6]
    parts = [
        [index for *_, index in as_lists(loader(images, to_tensor, shard=(rank, 2), **options))] for rank in range(2)
    ]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(index) for index in whole]


def test_global_generators_stay_put(images: ImageSet):
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    list(loader(images, jitter, batch_size=4, seed=1, augment=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_leave_their_batch(images: ImageSet, workers: int):
    root: Path = images.store.root
    for index in (0, 4, 5, 6, 7):
        (root / images.keys[index]).write_bytes(b"")
    batches = loader(images, to_tensor, batch_size=4, workers=workers)
    assert [index for *_, index in as_lists(batches)] == [[1, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15], [16]]
    assert [key for key, _ in batches.skipped] == [images.keys[i] for i in (0, 4, 5, 6, 7)]
    assert "0 bytes" in batches.skipped[0][1]
