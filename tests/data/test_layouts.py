from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from steadyclip.core.errors import DataError
from steadyclip.data import load_data


def refused(spec: Path | str, match: str, **options) -> str:
    """The one-line message with which ``spec`` is refused."""
    with pytest.raises(DataError, match=match) as caught:
        load_data(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# folders


def test_class_folders_are_split_here(folder):
    root = folder({"tabby_cat": 10, "Dog": 10, ".git": 1})
    (root / "Dog" / "notes.txt").write_text("not an image")
    (root / "Dog" / "._00.png").write_text("what macOS leaves behind")
    data = load_data(root)
    assert data.classes == ("Dog", "tabby cat")
    assert data.templates == ("a photo of a {}.",)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 10, "val": 4, "test": 6}
    assert "are not read: 2 hidden, 1 .txt, for instance .git/00.png" in data.notes[0]
    assert "50/20/30" in data.notes[1]
    keys = [key for images in data.splits.values() for key in images.keys]
    assert sorted(keys)[0] == "Dog/00.png"
    assert len(set(keys)) == 20


def test_listing_order_does_not_matter(folder, monkeypatch: pytest.MonkeyPatch):
    root = folder({"cat": 9, "dog": 9})
    expected = load_data(root)
    walk, iterdir = os.walk, Path.iterdir
    monkeypatch.setattr(os, "walk", lambda top: ((at, dirs, files[::-1]) for at, dirs, files in walk(top)))
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    assert load_data(root).splits == expected.splits


def test_nothing_is_opened_at_load_time(folder, monkeypatch: pytest.MonkeyPatch):
    root = folder({"cat": 4, "dog": 4})
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was opened"))
    assert len(load_data(root).splits["train"]) == 4


def test_split_folders(folder):
    data = load_data(folder({"train/cat": 5, "train/dog": 5, "valid/cat": 2, "valid/dog": 1, "Test/cat/deep": 2}))
    assert data.splits["train"].keys[:2] == ("train/cat/00.png", "train/cat/01.png")
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [10, 3, 2]
    (note,) = data.notes
    assert note.startswith("2 images in folders below those of the classes, such as Test/cat/deep/00.png")


def test_val_is_carved_from_train_and_never_from_test(folder):
    data = load_data(folder({"train/cat": 10, "train/dog": 10, "test/cat": 3, "test/dog": 3}))
    assert all(key.startswith("train/") for key in data.splits["val"].keys)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [16, 4, 6]
    assert "20 %" in data.notes[0]


def test_a_class_may_be_called_train(folder):
    assert load_data(folder({"train": 4, "bus": 4})).classes == ("bus", "train")


def counts(root: Path) -> dict[str, int]:
    return {split: len(images) for split, images in load_data(root).splits.items()}


def test_the_same_classes_in_every_folder_are_domains(folder):
    data = load_data(
        folder({f"{domain}/{name}": 6 for domain in ("photo", "sketch") for name in ("cat", "dog", "cow")})
    )
    assert (data.classes, data.domains) == (("cat", "cow", "dog"), ("photo", "sketch"))
    assert len(data.test_set(domain="sketch")) + len(data.test_set(domain="photo")) == 12
    assert data.notes[0] == "photo, sketch hold the same folders: these are read as domains of the same classes"
    inside = folder(
        {f"{split}/{at}/{name}": 5 for split in ("train", "test") for at in ("p", "s") for name in ("a", "b")}, "d"
    )
    assert load_data(inside).domains == ("p", "s")
    assert counts(inside) == {"train": 16, "val": 4, "test": 20}


def test_folders_that_can_be_domains_or_classes_are_refused(folder):
    root = folder({"photo/cat": 4, "photo/dog": 4, "sketch/cat": 4, "sketch/cow": 4})
    with pytest.raises(DataError, match=r"photo/cat can be class 'photo' or class 'cat' in the domain 'photo'"):
        load_data(root)


def test_folders_below_classes_belong_to_them(folder):
    data = load_data(folder({"animal/cat": 4, "animal/dog": 4, "vehicle/car": 4}))
    assert (data.classes, data.domains) == (("animal", "vehicle"), ())


@pytest.mark.parametrize("names", [("train_set", "test_set"), ("Training", "Testing"), ("train", "test-images")])
def test_other_names_of_splits(folder, names):
    root = folder({f"{split}/{name}": 5 for split in names for name in ("cat", "dog")})
    assert load_data(root).classes == ("cat", "dog")
    assert counts(root) == {"train": 8, "val": 2, "test": 10}


def test_splits_below_the_classes(folder):
    root = folder({f"{name}/{split}": 5 for split in ("train", "val", "test") for name in ("cat", "dog")})
    assert load_data(root).classes == ("cat", "dog")
    assert counts(root) == {"train": 10, "val": 10, "test": 10}


@pytest.mark.parametrize("inside", [("cat", "dog"), ("train", "test")])
def test_one_loose_image_does_not_change_the_reading(folder, inside):
    root = folder({f"{name}/{sub}": 3 for name in ("photo", "sketch") for sub in inside})
    (root / "photo" / "cover.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"photo/cover.png lies beside folders that all folders have"):
        load_data(root)


def test_linked_folders_are_counted(folder, tmp_path: Path):
    root, others = folder({"cat": 4, "dog": 4}), folder({"more": 4}, "others")
    (root / "cat" / "more").symlink_to(others / "more", target_is_directory=True)
    assert "1 file of" in load_data(root).notes[0]
    assert "cat/more" in load_data(root).notes[0]


def test_a_folder_around_everything(folder, tmp_path: Path):
    root = folder({"images/cat": 4, "images/dog": 4})
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "images" / "__MACOSX").mkdir()
    (root / "images" / "__MACOSX" / "0.png").write_bytes(b"?")
    data = load_data(root)
    assert (data.name, data.classes) == (root.name, ("cat", "dog"))
    assert "1 file of images is not read: 1 hidden, for instance __MACOSX/0.png" in data.notes[1]
    assert data.notes[0] == f"{root.name} holds one folder only: the classes are those in images/"


def test_what_is_not_read_is_counted(folder):
    root = folder({"cat": 4, "dog": 4})
    for i in range(3):
        (root / "cat" / f"IMG_{i}.HEIC").write_bytes(b"heic")
    (root / "dog" / "scan").write_bytes(b"?")
    (root / "loose.png").write_bytes(b"?")
    said = f"5 files of {root.name} are not read: 3 .heic, 1 .png not in a class folder, 1 without an ending"
    assert load_data(root).notes[0].startswith(f"{said}, for instance")
    assert len(load_data(root).splits["train"]) == 4


def test_missing_and_empty_folders(tmp_path: Path):
    assert "nowhere" in refused(tmp_path / "nowhere", "no folder")
    void, loose = tmp_path / "void", tmp_path / "loose"
    void.mkdir()
    refused(void, "neither images nor class folders")
    loose.mkdir()
    (loose / "a.png").write_bytes(b"x")
    refused(loose, "1 image but no class folders")


def test_empty_class(folder):
    root = folder({"cat": 3, "dog": 0})
    (root / "dog" / "IMG_1.HEIC").write_bytes(b"x")
    message = refused(root, "holds no images")
    assert str(root / "dog") in message
    assert ".heic" in message


def test_one_class_only(folder):
    refused(folder({"cat": 3}), "only one class.*'cat'")


def test_one_image_only(folder):
    refused(folder({"cat": 3, "dog": 1}), "'dog' has one image only")


def test_two_folders_with_the_same_name(folder):
    message = refused(folder({"sea_lion": 2, "Sea lion": 2}), "same name")
    assert "'sea_lion'" in message
    assert "'Sea lion'" in message


def test_split_folders_beside_others(folder):
    refused(folder({"train/cat": 2, "train/dog": 2, "misc": 1}), "beside others.*misc")
    refused(folder({"val/cat": 2, "valid/cat": 2}, "twice"), "val split twice")


def test_other_files_and_unknown_names(tmp_path: Path):
    for name, message in (("photos.bin", "neither a folder nor"), ("photos.zip", "is an archive: extract it")):
        (tmp_path / name).write_bytes(b"PK")
        refused(tmp_path / name, message)
    refused("no-such-data", "no folder, file or built-in data 'no-such-data'")


# split_zhou_*.json


@pytest.fixture
def zhou(folder):
    """A data set of three classes in the field's layout; ``zhou(name=..., change=...)`` edits the split first."""

    def make(name: str = "Pets", change=lambda split: None, folder_name: str = "zhou") -> Path:
        root = folder({"images/a": 8, "images/b": 8, "images/c": 8, "labels": 0}, folder_name)
        names = ["sea_lion", "bird", "Cat"]
        rows = [[f"{'abc'[label]}/{i:02}.png", label, names[label]] for i in range(8) for label in (2, 0, 1)]
        split = {"train": rows[:12], "val": rows[12:18], "test": rows[18:]}
        change(split)
        (root / f"split_zhou_{name}.json").write_text(json.dumps(split))
        return root

    return make


def test_zhou_names_order_and_template(zhou):
    root = zhou("Food101")
    data = load_data(root)
    assert data.name == "Food101"
    assert data.classes == ("sea lion", "bird", "Cat")  # by label number
    assert data.templates == ("a photo of {}, a type of food.",)
    assert data.splits["train"].keys[:3] == ("c/00.png", "a/00.png", "b/00.png")
    assert data.splits["train"].labels[:3] == (2, 0, 1)
    assert data.splits["test"].read(0).size == (6, 4)
    assert load_data(root / "split_zhou_Food101.json").splits == data.splits
    assert load_data(root, templates="a {}").templates == ("a {}",)


def test_zhou_of_an_unknown_set_has_the_default_template(zhou):
    assert load_data(zhou("Mine")).templates == ("a photo of a {}.",)


def test_zhou_missing_images(zhou):
    def change(split):
        split["train"][3][0] = "a/77.png"
        split["val"][0][0] = "b/88.png"

    message = refused(zhou(change=change), "no such file: a/77.png")
    assert "split_zhou_Pets.json train[3]" in message
    assert "1 more" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda split: split.pop("test"), "must hold train, val and test.*it has"),
        (
            lambda split: split["train"].__setitem__(0, ["a/00.png"]),
            r"train\[0\]: expected \[path, label, class",
        ),
        (lambda split: split["train"].__setitem__(0, ["c/00.png", 2, "dog"]), "label 2 is 'Cat' here and 'dog' before"),
        (lambda split: split["test"].append(split["train"][1]), "already named at split_zhou_Pets.json train"),
        (lambda split: [row.__setitem__(2, "cat") for row in split["train"] if row[1] == 1], "'cat'"),
    ],
)
def test_broken_split_files(zhou, change, match: str):
    refused(zhou(change=change), match)


def test_zhou_file_that_is_no_json(tmp_path: Path):
    (tmp_path / "split_zhou_X.json").write_text("{")
    refused(tmp_path, "cannot be read as JSON")
    (tmp_path / "split_zhou_Y.json").write_text("{}")
    refused(tmp_path, "several split files")
