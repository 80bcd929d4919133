from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import load_data, read_split
from steadyclip.data.decode import decode


@pytest.fixture
def pets(folder):
    """Four classes with splits: 6, 2, 6, 6 training images, 2 val, 3 test each."""
    counts = {f"{split}/{name}": n for split, n in (("train", 6), ("val", 2), ("test", 3)) for name in "abcd"}
    return load_data(folder({**counts, "train/b": 2}))


def test_few_shot_task(pets):
    task = pets.task(5, seed=2)
    assert task.train.labels == (0,) * 5 + (1,) * 2 + (2,) * 5 + (3,) * 5
    assert len(task.val) == 8
    said = "1 of 4 classes have fewer than 5 training images (the smallest 2): all of them are taken"
    assert said in task.summary()
    assert task.hash == pets.task(5, seed=2).hash != pets.task(5, seed=3).hash
    assert not any("fewer" in line for line in pets.task(2).summary())


def test_base_and_new_are_parts_of_the_whole_sample(pets):
    whole, base, new = (pets.task(3, subset=subset) for subset in ("all", "base", "new"))
    assert base.train.keys + new.train.keys == whole.train.keys
    assert (base.classes, new.classes) == (("a", "b"), ("c", "d"))
    assert set(new.train.labels) == set(new.val.labels) == {0, 1}
    assert pets.test_set("new").keys == tuple(f"test/{name}/{i:02}.png" for name in "cd" for i in range(3))
    assert pets.test_set("new").labels == (0, 0, 0, 1, 1, 1)


def test_training_gets_no_test_data(pets):
    everything = pickle.dumps(pets.task())
    assert b"train/a/00.png" in everything
    assert b"test/" not in everything


def test_training_gets_no_test_rows_of_a_table(tmp_path: Path, picture):
    rows = {"path": [f"{split}/{i}" for split in ("train", "test") for i in range(4)], "label": ["cat", "dog"] * 4}
    columns = {**rows, "split": ["train"] * 4 + ["test"] * 4, "image": [picture(key) for key in rows["path"]]}
    parquet.write_table(pa.table(columns), tmp_path / "set.parquet")
    data = load_data(tmp_path / "set.parquet")
    everything = pickle.dumps(data.task())
    assert b"train/0" in everything
    assert b"test/" not in everything
    assert data.test_set().read(3).tobytes() == decode(picture("test/3"), "x").tobytes()


def test_unknown_words(pets):
    with pytest.raises(UsageError, match=r"unknown subset 'bas'.*Did you mean 'base'"):
        pets.task(subset="bas")
    with pytest.raises(UsageError, match="shots must be 1 or more"):
        pets.task(0)
    with pytest.raises(DataError, match="unknown domain 'sketch'; it has no domains"):
        pets.test_set(domain="sketch")


def test_classes_in_an_order_of_their_own(pets):
    images = pets.test_set(classes=[3, 0])
    assert images.classes == ("d", "a")
    assert [(key[5], label) for key, label in zip(images.keys, images.labels, strict=True)] == [
        *[("a", 1)] * 3, *[("d", 0)] * 3,
    ]  # fmt: skip


def test_images_are_known_by_what_they_are(pets, folder, tmp_path: Path):
    """Copied under other names, or into another split."""
    task = pets.task(2)
    copies = tmp_path / "copies"
    for i, (key, label) in enumerate(zip(task.train.keys, task.train.labels, strict=True)):
        path = copies / "test" / pets.classes[label] / f"copy-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(task.train.store.read(key))
    for key in pets.splits["test"].keys[:4]:
        (copies / "test" / "a" / f"new-{key.replace('/', '-')}").write_bytes(task.train.store.read(key))
    found = load_data(copies).test_set()
    assert len(found) == 12
    assert [key.rpartition("/")[2][:3] for key in found.unlike(task.digests).keys] == ["new"] * 4
    assert found.unlike(frozenset()) is found


def test_domains(tmp_path: Path, folder):
    root = folder({"photos": 12}, "set")
    lines = [
        f"photos/{i:02}.png,{'cat' if i % 2 else 'dog'},{'train' if i < 6 else 'test'},{'art' if i > 9 else 'photo'}\n"
        for i in range(12)
    ]
    (root / "set.csv").write_text("path,label,split,domain\n" + "".join(lines))
    data = load_data(root / "set.csv")
    assert data.domains == ("photo", "art")
    assert len(data.test_set()) == 4
    assert data.test_set(domain="art").domains == ("art", "art")
    with pytest.raises(DataError, match=r"unknown domain 'arts'; it has photo, art\. Did you mean 'art'"):
        data.test_set(domain="arts")


def test_test_only_and_train_only(folder):
    test_only = load_data(folder({"test/a": 2, "test/b": 2}))
    assert len(test_only.test_set()) == 4
    with pytest.raises(DataError, match=r"no training images \(only test\)"):
        test_only.task()
    train_only = load_data(folder({"train/a": 5, "train/b": 5}, "other"))
    with pytest.raises(DataError, match=r"no test images \(only train and val\)"):
        train_only.test_set()
    mixed = load_data(folder({"train/a": 5, "test/a": 5, "test/b": 5}, "third"))
    with pytest.raises(DataError, match="class 'b' has no training images"):
        mixed.task()


# unreadable images


def test_unreadable_are_skipped_and_listed(folder, picture):
    root = folder({f"{split}/{name}": 30 for split in ("train", "val", "test") for name in "ab"})
    (root / "train/a/03.png").write_bytes(b"")
    (root / "val/b/04.png").write_bytes(picture("x")[:40])
    task = load_data(root).task()
    assert [key for key, _ in task.skipped] == ["train/a/03.png", "val/b/04.png"]
    assert "0 bytes" in task.skipped[0][1]
    assert len(task.train) == len(task.val) == 59
    assert any("skipped train/a/03.png" in line for line in task.summary())
    assert len(load_data(root).task(verify=False).train) == 60
    with pytest.raises(DataError, match=r"1 of 60 images cannot be read.*max_unreadable=0.01.*train/a/03.png"):
        load_data(root, max_unreadable=0.01).task()


def test_class_that_loses_all_its_images(folder):
    root = folder({"train/a": 40, "train/b": 1, "val/a": 1, "test/a": 1})
    (root / "train/b/00.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"class 'b' loses all its images \(1\).*train/b/00.png"):
        load_data(root, max_unreadable=1).task()


def test_only_the_selected_images_are_read(folder):
    root = folder({"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 2})
    data = load_data(root)
    chosen = set(data.task(1).train.keys + data.task(1).val.keys)
    for path in root.rglob("*.png"):
        if path.relative_to(root).as_posix() not in chosen:
            path.write_bytes(b"")
    assert data.task(1).skipped == ()


def test_file_that_goes_after_loading(folder):
    data = load_data(folder({"a": 40, "b": 40}))
    key = data.splits["train"].keys[5]
    (data.splits["train"].store.root / key).unlink()
    assert data.task().skipped == ((key, "no such file or directory"),)


def test_check_reports(folder, picture):
    root = folder({"train/a": 3, "train/b": 3, "val/a": 1, "test/a": 2, "test/b": 1})
    (root / "test/b/00.png").write_bytes((root / "train/b/01.png").read_bytes())
    (root / "train/a/02.png").write_bytes(b"")
    report = load_data(root).check()
    assert report.counts["train"] == {"a": 3, "b": 3}
    assert report.empty == (("val", "b"),)
    assert [key for key, _ in report.unreadable] == ["train/a/02.png"]
    assert report.leaks == ((("train", "train/b/01.png"), ("test", "test/b/00.png")),)
    assert report.notes == ()
    assert any("numbers" in note for note in load_data(folder({"0": 3, "1": 3}, "digits")).check().notes)


# split files


def test_split_file_round_trip(pets, tmp_path: Path):
    task = pets.task(2, seed=3, subset="new")
    path = tmp_path / "split.json"
    path.write_text(json.dumps(task.split_json()))
    assert [task.split_json()["train"][0][0][:8], 0] == ["train/c/", 0]
    again = pets.restore(read_split(path))
    assert (again.train, again.val, again.hash) == (task.train, task.val, task.hash)
    assert str(tmp_path) not in path.read_text()


def test_split_file_of_other_data(pets, folder, tmp_path: Path):
    split = pets.task(2).split_json()
    with pytest.raises(DataError, match="other classes"):
        load_data(folder({"x": 3, "y": 3}, "other")).restore(split)
    split["train"][0][0] = "train/a/99.png"
    with pytest.raises(DataError, match=r"1 image is missing of the saved train split.*99.png"):
        pets.restore(split)
    changed = pets.task(2).split_json()
    changed["val"][0][2] = "0" * 32
    with pytest.raises(DataError, match=r"or have changed, for instance val/"):
        pets.restore(changed)
    path = tmp_path / "not.json"
    with pytest.raises(DataError, match="cannot be read as a split file"):
        read_split(path)
    path.write_text('{"train": []}')
    with pytest.raises(DataError, match="not a split file"):
        read_split(path)


def test_hash_knows_keys_labels_and_classes(pets):
    images = pets.splits["train"]
    assert images.hash == images.subset(range(len(images))).hash
    others = [
        images.subset(range(1, len(images))),
        dataclasses.replace(images, labels=images.labels[::-1]),
        dataclasses.replace(images, classes=("a", "b", "c", "e")),
    ]
    assert len({images.hash, *(other.hash for other in others)}) == 4
    assert images.hash == "48bd4e07601bb2bd"  # the same on every machine


def test_check_names_16_bit_images_that_use_the_lowest_bits(tmp_path: Path):
    """They are scaled by the whole range, so they would be nearly black."""
    rng = np.random.default_rng(0)
    for name in ("cells", "dust"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 4096, (8, 8), np.uint16)).save(tmp_path / name / f"{i}.png")
    (note,) = load_data(tmp_path).check().notes
    assert note.startswith("8 images have 16 bits, and no value of them is above 4095: if 12 bits are used")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "dust" / "bright.png")
    assert load_data(tmp_path).check().notes == ()
