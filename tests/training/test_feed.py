import dataclasses
import multiprocessing
import random

import pytest
import torch
from training_world import MemoryStore, make_task, textured

from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import ImageSet, UnreadableImage, batches
from steadyclip.models.preprocess import Preprocess
from steadyclip.training import TrainConfig
from steadyclip.training.feed import Feed

PREPROCESS = Preprocess(
    size=(8, 8),
    resize="shortest",
    resize_to=(8, 8),
    crop=True,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    interpolation="bicubic",
)


class Numbers:
    """A stream of ten numbers, each with a random one beside it."""

    def __len__(self) -> int:
        return 10

    def item(self, index, rng: random.Random):
        return {"number": index, "random": rng.random()}

    def collate(self, items):
        return {name: [item[name] for item in items] for name in items[0]}


def feed(task=None, batch_size=6, shard=(0, 1), streams=None, **config) -> Feed:
    return Feed(task or make_task(), PREPROCESS, batch_size, TrainConfig(**config), streams or {}, shard=shard)


def keys(samples) -> list[list[str]]:
    return [list(sample.keys) for sample in samples]


def test_an_epoch_shows_no_picture_twice_and_epochs_differ() -> None:
    seen = keys(feed().steps(0, 4))
    assert [len(step) for step in seen] == [6] * 4
    first, second = seen[0] + seen[1], seen[2] + seen[3]
    assert len(set(first)) == len(set(second)) == 12
    assert first != second


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_later_start_gives_the_very_same_samples(start, workers) -> None:
    through = list(feed(streams={"n": Numbers()}).steps(0, 5))[start:]
    resumed = list(feed(streams={"n": Numbers()}, workers=workers).steps(start, 5))
    assert keys(through) == keys(resumed)
    for a, b in zip(through, resumed, strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)
        assert torch.equal(a.labels_B, b.labels_B)
        assert a.streams == b.streams


def test_seeds_differ_and_augmentation_can_be_off() -> None:
    assert keys(feed(seed=1).steps(0, 2)) != keys(feed(seed=2).steps(0, 2))
    sample = next(feed(augment=False).steps(0, 1))
    images = make_task().train
    for key, pixels_CHW in zip(sample.keys, sample.images_BCHW, strict=True):
        assert torch.equal(pixels_CHW, PREPROCESS.pixels(images.read(images.keys.index(key))))


def test_processes_share_each_batch() -> None:
    whole = keys(feed().steps(0, 3))
    parts = [keys(feed(shard=(rank, 2)).steps(0, 3)) for rank in range(2)]
    for step in range(3):
        assert set(whole[step]) == set(parts[0][step]) | set(parts[1][step])
        assert len(parts[0][step]) == len(parts[1][step]) == 3


@pytest.mark.parametrize("views", [None, 0, 1, 3])
def test_places_without_pixels_are_those_of_the_images(views) -> None:
    def samples(decode: bool):
        made = Feed(without("red/1.png"), PREPROCESS, 8, TrainConfig(), {"k": Numbers()}, views, (1, 2))
        made.decode = decode
        if not decode:
            made.skipped["red/1.png"] = "no such file"  # as the cache has found out
        return list(made.steps(2, 9))

    for with_pixels, places in zip(samples(True), samples(False), strict=True):
        assert places.images_BCHW is None
        assert with_pixels.keys == places.keys
        assert with_pixels.view == places.view
        assert torch.equal(with_pixels.index_B, places.index_B)
        assert torch.equal(with_pixels.labels_B, places.labels_B)
        assert with_pixels.streams == places.streams


def test_views_are_drawn_once_and_come_again() -> None:
    def pixels(views):
        made = Feed(textured(make_task()), PREPROCESS, 16, TrainConfig(), {}, views)
        return [dict(zip(s.keys, s.images_BCHW, strict=True)) for s in made.steps(0, 4)]

    def equal(a, b):
        return all(torch.equal(a[key], b[key]) for key in a)

    anew, two, none = pixels(None), pixels(2), pixels(0)
    assert not equal(anew[0], anew[2])
    assert equal(two[0], two[2])
    assert equal(two[1], two[3])
    assert not equal(two[0], two[1])
    assert equal(none[0], none[1])
    assert equal(two[0], anew[0])  # a view is an epoch's augmentation


def test_a_batch_larger_than_the_set_is_the_set() -> None:
    assert sorted(keys(feed(batch_size=100).steps(0, 1))[0]) == sorted(make_task().train.keys)


def test_too_many_processes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"6 images .* 4 processes in 2 parts"):
        feed(shard=(0, 4), accumulate=2)


def test_a_stream_gives_every_item_once_an_epoch_and_is_shared() -> None:
    def drawn(shard):
        steps = feed(streams={"n": Numbers()}, shard=shard).steps(0, 5)
        return [sample.streams["n"] for sample in steps]

    whole, halves = drawn((0, 1)), [drawn((rank, 2)) for rank in range(2)]
    numbers = [n for batch in whole for n in batch["number"]]
    assert sorted(numbers) == sorted(list(range(10)) * 3)
    assert sorted(numbers[:10]) == list(range(10))
    for step in range(5):
        assert sorted(whole[step]["random"]) == sorted(halves[0][step]["random"] + halves[1][step]["random"])


class Keyed(Numbers):
    """One item for each of the 16 images: its key, and a random number."""

    of_images = True

    def __len__(self) -> int:
        return 16

    def item(self, index, rng: random.Random):
        return {"key": make_task().train.keys[index], "random": rng.random()}


def test_a_stream_of_images_gives_the_items_of_the_very_images() -> None:
    def random_by_key(shard, start=0, **config):
        parts = list(feed(streams={"k": Keyed()}, shard=shard, **config).steps(start, 3))
        assert all(tuple(part.streams["k"]["key"]) == part.keys for part in parts)
        return [(key, x) for part in parts for key, x in zip(part.keys, part.streams["k"]["random"], strict=True)]

    whole = random_by_key((0, 1))
    assert len({x for _, x in whole}) == len(whole)  # drawn anew for each step
    assert random_by_key((0, 1), start=2) == whole[12:]
    assert sorted(random_by_key((0, 2)) + random_by_key((1, 2))) == sorted(whole)


class Vanishing(MemoryStore):
    def read(self, key):
        if key in self.gone:
            raise UnreadableImage(key, "no such file")
        return super().read(key)


def without(*gone: str, allowed: float = 0.05):
    task = make_task(8)
    store = Vanishing(task.train.store.files)
    object.__setattr__(store, "gone", gone)
    return dataclasses.replace(task, train=dataclasses.replace(task.train, store=store, max_unreadable=allowed))


def test_a_picture_that_vanished_is_left_out_and_remembered() -> None:
    lost = feed(without("red/1.png"), batch_size=8)
    seen = keys(lost.steps(0, 5))
    assert all("red/1.png" not in step for step in seen)
    assert [len(step) for step in seen].count(7) >= 1
    assert lost.skipped == {"red/1.png": "no such file"}


def test_a_picture_that_vanished_is_remembered_also_when_the_training_ends_in_mid_epoch() -> None:
    first = keys(feed(make_task(8), batch_size=8).steps(0, 1))[0]
    lost = feed(without(first[0]), batch_size=8)
    assert keys(lost.steps(0, 1))[0] == first[1:]
    assert lost.skipped == {first[0]: "no such file"}


def test_too_many_vanished_pictures_stop_the_training() -> None:
    gone = [f"red/{i}.png" for i in range(5)]
    with pytest.raises(DataError, match=r"[2-5] of 32 images"):
        list(feed(without(*gone), batch_size=8).steps(0, 5))
    with pytest.raises(DataError, match="no image of a whole batch"):
        list(feed(without(*gone, allowed=1.0), batch_size=1).steps(0, 33))


def test_places_stop_too_where_a_whole_batch_is_lost() -> None:
    made = feed(without("red/1.png"), batch_size=1)
    made.decode, made.skipped = False, {"red/1.png": "no such file"}
    with pytest.raises(DataError, match=r"no image of a whole batch .*red/1\.png"):
        list(made.steps(0, 32))


def test_decoded_images_are_kept_as_long_as_there_is_room(monkeypatch) -> None:
    read, original = [], ImageSet.read
    monkeypatch.setattr(ImageSet, "read", lambda images, i, *more: read.append(i) or original(images, i, *more))
    kept = list(feed().steps(0, 8))
    assert len(read) == len(set(read)) == 16
    read.clear()
    monkeypatch.setattr(batches, "_KEPT", 5 * 4 * 24 * 20)  # five images
    some = list(feed().steps(0, 8))
    assert 16 < len(read) <= 48 - 5
    read.clear()
    monkeypatch.setattr(batches, "_KEPT", 0)
    none = list(feed().steps(0, 8))
    assert len(read) == 48
    for samples in zip(kept, some, none, strict=True):
        assert len({sample.keys for sample in samples}) == 1
        assert all(torch.equal(samples[0].images_BCHW, sample.images_BCHW) for sample in samples[1:])


def test_worker_processes_stay_through_all_epochs() -> None:
    steps = feed(streams={"n": Numbers()}, workers=2).steps(0, 8)
    next(steps)
    before = {child.pid for child in multiprocessing.active_children()}
    for _ in range(6):  # three epochs
        next(steps)
    assert {child.pid for child in multiprocessing.active_children()} == before
    steps.close()
