"""The real photos of Caltech-101 with the field's official split, where they are at hand."""

from __future__ import annotations

import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from steadyclip.core.errors import DataError
from steadyclip.data import ImageData, load_data
from steadyclip.data.catalog import check, find

_BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "caltech-101-96px.tar"
TAR = Path(os.environ.get("STEADYCLIP_CALTECH", _BESIDE))
pytestmark = pytest.mark.skipif(not TAR.is_file(), reason="no Caltech-101 here (STEADYCLIP_CALTECH names the tar)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("caltech")
    with tarfile.open(TAR) as tar:
        tar.extractall(place, filter="data")
    return place / "caltech-101"


@pytest.fixture(scope="module")
def data(root: Path) -> ImageData:
    return load_data("caltech101", root=root.parent)


def test_sizes_names_and_template(data: ImageData):
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 4128, "val": 1649, "test": 2465}
    assert find("caltech101").counts == {"train": 4128, "val": 1649, "test": 2465}
    assert len(data.classes) == 100
    assert data.name == "Caltech101"
    assert data.templates == ("a photo of a {}.",)
    assert data.classes[:4] == ("face", "leopard", "motorbike", "accordion")
    assert data.classes[18] == "car side"
    assert (len(data.test_set("base")), len(data.test_set("new"))) == (1549, 916)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 16])
@pytest.mark.parametrize("subset", ["all", "base", "new"])
def test_samples_equal_the_fields_file_by_file(root: Path, data: ImageData, shots: int, seed: int, subset: str):
    split = json.loads((root / "split_zhou_Caltech101.json").read_text())
    rng = random.Random(seed)  # the same stream as random.seed(seed)
    expected = []
    for part, k in (("train", shots), ("val", min(shots, 4))):
        tracker: dict[int, list[str]] = {}
        for path, label, _ in split[part]:
            tracker.setdefault(label, []).append(path)
        sample = [(p, y) for y, paths in tracker.items() for p in (rng.sample(paths, k) if len(paths) >= k else paths)]
        keep = {"all": range(100), "base": range(50), "new": range(50, 100)}[subset]
        expected.append([(path, label - keep[0]) for path, label in sample if label in keep])
    task = data.task(shots, seed, subset, verify=False)
    assert list(zip(task.train.keys, task.train.labels, strict=True)) == expected[0]
    assert list(zip(task.val.keys, task.val.labels, strict=True)) == expected[1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_base_and_new_are_the_first_and_last_fifty_labels(root: Path, data: ImageData, seed: int):
    split = json.loads((root / "split_zhou_Caltech101.json").read_text())
    for subset, labels in (("base", range(50)), ("new", range(50, 100))):
        expected = [path for path, label, _ in split["test"] if label in labels]
        assert list(data.test_set(subset).keys) == expected
        names = {label: name.replace("_", " ") for _, label, name in split["test"]}
        assert data.task(16, seed, subset, verify=False).classes == tuple(names[label] for label in labels)


def test_by_name_and_by_folder_it_is_the_same(root: Path, data: ImageData):
    assert load_data(root) == data


def test_check_finds_it_complete_and_names_what_was_lost(root: Path, tmp_path: Path):
    assert [finding.entry.name for finding in check(root.parent) if finding.complete] == ["Caltech101"]
    half = tmp_path / "caltech-101" / "101_ObjectCategories"
    half.mkdir(parents=True)
    (half.parent / "split_zhou_Caltech101.json").symlink_to(root / "split_zhou_Caltech101.json")
    for folder in sorted((root / "101_ObjectCategories").iterdir())[:50]:
        (half / folder.name).symlink_to(folder)
    with pytest.raises(
        DataError, match=r"Caltech101: [\d,]+ of the 8,242 images named in split_zhou_Caltech101.json are"
    ):
        load_data("caltech101", root=tmp_path)
    (finding,) = [finding for finding in check(tmp_path) if finding.there]
    assert finding.found
    assert 0 < sum(finding.found.values()) < 8242


def test_every_sampled_photo_can_be_read(data: ImageData):
    task = data.task(16, 1)
    assert (len(task.train), len(task.val), task.skipped) == (1600, 400, ())
    assert task.train.read(0).mode == "RGB"


def test_the_same_photos_as_a_plain_folder(root: Path):
    plain = load_data(root / "101_ObjectCategories")
    assert len(plain.classes) == 102
    assert sum(len(images) for images in plain.splits.values()) == 9144
