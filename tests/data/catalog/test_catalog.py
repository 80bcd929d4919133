"""The catalog: a miniature of every layout is read, and each way of being incomplete is one clear line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from steadyclip.cli import main
from steadyclip.commands.options import DataOptions
from steadyclip.core.errors import DataError
from steadyclip.data import ImageData, load_data
from steadyclip.data.catalog import catalog, check, find

NAMES = [item.name for item in catalog()]


def sizes(data: ImageData) -> dict[str, int]:
    return {split: len(images) for split, images in data.splits.items() if len(images)}


def test_the_field_is_all_there():
    assert " ".join(NAMES) == (
        "ImageNet Caltech101 OxfordPets StanfordCars Flowers102 Food101 FGVCAircraft SUN397 DTD EuroSAT UCF101 "
        "ImageNet-V2 ImageNet-Sketch ImageNet-A ImageNet-R ObjectNet PACS VLCS OfficeHome DomainNet"
    )
    # what the authors of each data set give as its size
    totals = {item.name: item.total for item in catalog()}
    assert totals["StanfordCars"] == 16_185
    assert totals["UCF101"] == 13_320
    assert totals["SUN397"] == 397 * 100
    assert totals["DTD"] == 47 * 120
    assert (totals["PACS"], totals["VLCS"], totals["OfficeHome"]) == (9991, 10_729, 15_588)
    assert totals["DomainNet"] == 586_575


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_read(lay, tmp_path: Path, name: str):
    small = lay(name)
    data = load_data(name.lower(), root=tmp_path)
    assert data.name == name
    assert len(data.classes) == small.classes
    assert sum(sizes(data).values()) == small.total
    if not small.domains:
        assert sizes(data) == small.counts
    assert all(images.read(0).mode == "RGB" for images in data.splits.values() if len(images))
    assert len(data.test_set(domain=small.domains[0] if small.domains else None))
    (found,) = [finding for finding in check(tmp_path) if finding.there]
    assert found.complete
    assert found.found == small.counts
    assert found.lines()[0].startswith(f"{name:<16}complete     {small.total:,} of {small.total:,} images")
    if small.split:  # the same folder without the catalog: same images, same classes
        alone = load_data(tmp_path / small.folder)
        assert {split: images.hash for split, images in alone.splits.items()} == {
            split: images.hash for split, images in data.splits.items()
        }
        assert alone.templates == data.templates


def test_templates_are_the_hand_made_ones():
    templates = {item.name: item.templates for item in catalog()}
    assert templates["OxfordPets"] == ("a photo of a {}, a type of pet.",)
    assert templates["Flowers102"] == ("a photo of a {}, a type of flower.",)
    assert templates["DTD"] == ("{} texture.",)
    assert templates["FGVCAircraft"] == ("a photo of a {}, a type of aircraft.",)
    assert templates["EuroSAT"] == ("a centered satellite photo of {}.",)
    assert templates["ImageNet-R"] == templates["PACS"] == ("a photo of a {}.",)


# ImageNet and its variants


def test_imagenet_has_no_validation_split_and_its_twins_are_kept(lay, tmp_path: Path):
    lay("ImageNet")
    data = load_data("ImageNet", root=tmp_path)
    assert sizes(data) == {"train": 1000, "test": 1000}
    assert data.notes == ()
    assert data.classes[:3] == ("twin", "twin", "thing number 2")
    task = data.task(shots=1, verify=False)
    assert (len(task.train), len(task.val), len(task.classes)) == (1000, 0, 1000)
    assert len(data.test_set("base")) == len(data.test_set("new")) == 500
    assert data.restore(task.split_json()).hash == task.hash
    assert sum(data.check().counts["train"].values()) == 1000


def test_variants_share_imagenets_classes(lay, tmp_path: Path):
    for name in ("ImageNet", "ImageNet-V2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R"):
        lay(name)
    imagenet = load_data("imagenet", root=tmp_path)
    assert load_data("imagenet-v2", root=tmp_path).classes == imagenet.classes
    assert load_data("imagenet-sketch", root=tmp_path).classes == imagenet.classes
    lines = (tmp_path / "imagenet" / "classnames.txt").read_text().splitlines()
    names = dict(line.split(" ", 1) for line in lines)
    for name in ("imagenet-a", "imagenet-r"):
        variant = load_data(name, root=tmp_path)
        folders = [key.split("/")[0] for key in variant.splits["test"].keys]
        assert len(set(folders)) == 200
        assert folders == sorted(folders)
        assert variant.classes == tuple(names[wnid] for wnid in folders)  # 200 of the 1000, and no others


def test_folder_numbers_of_v2_are_places_not_words(lay, tmp_path: Path):
    lay("ImageNet-V2")
    test = load_data("imagenetv2", root=tmp_path).test_set()
    assert [(test.keys[i], test.labels[i]) for i in (2, 10)] == [("2/0.jpeg", 2), ("10/0.jpeg", 10)]


def test_class_names_may_stand_in_the_imagenet_folder_only(lay, tmp_path: Path):
    lay("ImageNet-Sketch")
    own = tmp_path / "imagenet-sketch" / "classnames.txt"
    (tmp_path / "imagenet").mkdir()
    beside = own.rename(tmp_path / "imagenet" / "other.txt")
    with pytest.raises(DataError, match=r"classnames.txt is missing in .*imagenet-sketch. Take it from https"):
        load_data("imagenet-sketch", root=tmp_path)
    beside.rename(tmp_path / "imagenet" / "classnames.txt")
    assert len(load_data("imagenet-sketch", root=tmp_path).classes) == 1000


def test_objectnet_names_its_classes_and_loses_the_border(lay, tmp_path: Path):
    lay("ObjectNet")
    page = Image.new("RGB", (10, 8), "red")
    page.paste("blue", (2, 2, 8, 6))
    page.save(tmp_path / "objectnet-1.0" / "images" / "alarm_clock" / "abc.png")
    test = load_data("objectnet", root=tmp_path).test_set()
    assert (test.classes[0], "butcher's knife" in test.classes) == ("alarm clock", True)
    assert test.read(0).size == (6, 4)
    assert test.read(0).getcolors() == [(24, (0, 0, 255))]
    assert not any("air_freshener" in key for key in test.keys)


# domains


def test_domains_are_sources_or_targets(lay, tmp_path: Path):
    lay("PACS")
    every = load_data("pacs", root=tmp_path)
    assert every.domains == ("art_painting", "cartoon", "photo", "sketch")
    assert sizes(every) == {"train": 4 * 21, "val": 4 * 7, "test": 4 * 7}
    assert "60/20/20" in every.notes[0]
    assert load_data("pacs", root=tmp_path).splits == every.splits
    one = load_data("pacs", root=tmp_path, sources=["photo"])
    assert set(one.splits["train"].domains) == set(one.splits["val"].domains) == {"photo"}
    assert len(one.task(verify=False).train) == 21
    assert len(one.test_set()) == 7  # what is left of photo
    assert len(one.test_set(domain="sketch")) == 35  # all of sketch
    keys = [key for images in one.splits.values() for key in images.keys]
    assert len(keys) == len(set(keys)) == 140
    with pytest.raises(DataError, match=r"PACS: unknown domain 'foto'.*Did you mean 'photo'"):
        load_data("pacs", root=tmp_path, sources=["foto"])


def test_sources_of_a_set_without_domains(folder):
    with pytest.raises(DataError, match="it has no domains"):
        load_data(folder({"a": 4, "b": 4}), sources=["photo"])


# what people get wrong


def refused(name: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(name, root=root)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    (found,) = [finding for finding in check(root) if finding.there]
    assert not found.complete
    assert any(line.startswith(f"{name:<16}incomplete") for line in found.lines())
    return message


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("Caltech101", "101_ObjectCategories", r"101_ObjectCategories is missing in .*which holds split_zhou_Cal"),
        ("Caltech101", "101_ObjectCategories/thing_7", r"3 of the 300 images named in split_zhou_Caltech101.json"),
        ("Caltech101", "split_zhou_Caltech101.json", r"json is missing in .*Take it from https://github.com/Kaiyang"),
        ("FGVCAircraft", "variants.txt", r"variants.txt is missing in .*Take it from https://www.robots"),
        ("FGVCAircraft", "images/0000003.jpg", r"1 of the 300 images named in images_variant_\*.txt"),
        ("ImageNet", "images/val", r"images/val is missing"),
        ("ImageNet", "images/val/n01443537", r"1 class folders are missing or empty, for instance n01443537 \(test\)"),
        ("ImageNet", "classnames.txt", r"classnames.txt is missing"),
        ("ImageNet-A", "imagenet-a/n01498041", r"1 class folders are missing or empty, for instance n01498041"),
        ("ImageNet-V2", "imagenetv2-matched-frequency-format-val/999/0.jpeg", r"1 class folders are missing or empty"),
        ("ObjectNet", "images/wok", r"1 class folders are missing or empty, for instance wok"),
        ("PACS", "sketch", r"the folder sketch is missing in .*which holds art_painting, cartoon, photo"),
        ("PACS", "sketch/Thing_2/1.jpg", r"images are missing \(sketch 34 of 35\). Extract the archive"),
        ("PACS", "sketch/Thing_2", r"1 class folders are missing or empty, for instance Thing_2 \(sketch\)"),
    ],
)
def test_what_is_missing_is_named(lay, tmp_path: Path, name: str, lost: str, message: str):
    place = tmp_path / lay(name).folder / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert re.search(message, refused(name, tmp_path))


def test_an_archive_that_was_not_extracted(lay, tmp_path: Path):
    lay("DTD")
    shutil.rmtree(tmp_path / "dtd" / "images")
    (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").touch()
    assert "but dtd-r1.0.1.tar.gz lies there: extract it" in refused("DTD", tmp_path)


def test_imagenet_val_as_it_comes(lay, tmp_path: Path, picture):
    lay("ImageNet")
    val = tmp_path / "imagenet" / "images" / "val"
    shutil.rmtree(val)
    val.mkdir()
    (val / "ILSVRC2012_val_00000001.JPEG").write_bytes(picture("one"))
    assert "holds loose images. Sort them into a folder for each class" in refused("ImageNet", tmp_path)


def test_another_split_file(lay, tmp_path: Path):
    lay("EuroSAT")
    path = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    split["train"] += split.pop("val")
    path.write_text(json.dumps(split))
    assert "split_zhou_EuroSAT.json has not the official number of images (train 20 for 10" in refused(
        "EuroSAT", tmp_path
    )


def test_class_names_of_something_else(lay, tmp_path: Path):
    lay("ImageNet")
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    assert "it has 2" in refused("ImageNet", tmp_path)


def test_more_images_are_read_and_remarked(lay, tmp_path: Path, picture):
    lay("VLCS")
    (tmp_path / "VLCS" / "SUN09" / "Thing_0" / "more.jpg").write_bytes(picture("one"))
    assert "more images than the official data set has: SUN09 26 for 25" in load_data("vlcs", root=tmp_path).notes


def test_names_and_roots(lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lay("DTD")
    with pytest.raises(DataError, match=r"dtd is one of the field's data sets: name the folder that holds dtd/ with"):
        load_data("dtd")
    with pytest.raises(DataError, match=r"no folder .*nowhere: name the one that holds the data sets"):
        load_data("dtd", root=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"EuroSAT is not in .*: put it into the folder eurosat there \(https"):
        load_data("eurosat", root=tmp_path)
    with pytest.raises(DataError, match=r"'calltech101'. Did you mean 'caltech101'"):
        load_data("calltech101", root=tmp_path)
    assert find("calltech101") is None
    assert find("oxford_flowers") is find("flowers-102")
    monkeypatch.setenv("STEADYCLIP_DATA", str(tmp_path))
    assert load_data("dtd").name == "DTD"
    monkeypatch.chdir(tmp_path)
    assert load_data("./dtd").name == "DescribableTextures"  # a path is a path
    monkeypatch.delenv("STEADYCLIP_DATA")
    assert load_data("dtd").name == "DescribableTextures"  # as before, where a folder of that name is


# the commands


def test_data_list(capsys: pytest.CaptureFixture[str]):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out
    assert all(name in lines for name in NAMES)
    assert main(["data", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["counts"] == {"train": 4128, "val": 1649, "test": 2465}


def test_data_check_of_a_root(lay, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    lay("DTD")
    lay("PACS")
    (tmp_path / "caltech101").mkdir()
    assert main(["data", "check", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 20 + 2
    assert out[0] == "ImageNet        not there    imagenet/ (https://image-net.org)"
    assert out[8] == "DTD             complete     141 of 141 images (train 47, val 47, test 47), 47 classes"
    assert out[20] == "caltech101/ is not read: rename it to caltech-101 if it is Caltech101."
    assert out[21].startswith("complete: 2 of 20 data sets.")
    (tmp_path / "PACS" / "photo" / "Thing_0" / "0.jpg").unlink()
    monkeypatch.setenv("STEADYCLIP_DATA", str(tmp_path))
    assert main(["data", "check"]) == 1
    out, error = capsys.readouterr()
    assert "PACS            incomplete   139 of 140 images" in out
    assert error == f"error: 1 of 2 data sets in {tmp_path} are incomplete: PACS.\n"


def test_data_check_of_one_by_name(lay, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lay("EuroSAT")
    assert main(["data", "check", str(tmp_path), "--data", "eurosat"]) == 1  # the same image everywhere
    out, error = capsys.readouterr()
    assert "EuroSAT: 10 classes, 10 train, 10 val, 10 test images" in out
    assert "1 image of EuroSAT found both in test and in training or validation" in error
    assert main(["data", "sample", "--data", "eurosat", "--root", str(tmp_path), "--shots", "1"]) == 0
    assert "train\tthing 3\tthing_3/train_3.jpg" in capsys.readouterr().out


def test_data_check_of_the_wrong_folder(lay, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder):
    lay("DTD")
    assert main(["data", "check", str(tmp_path / "dtd")]) == 1
    assert f"give the folder above it, {tmp_path}. A data set of your own: steadyclip" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 1
    assert "no folder" in capsys.readouterr().err
    assert main(["data", "check"]) == 2
    assert "name the folder to check" in capsys.readouterr().err


def test_the_data_options_can_be_typed_again():
    options = DataOptions("officehome", root=Path("my data"), sources=("Real World", "Art"))
    assert options.words == "--data officehome --root 'my data' --sources 'Real World' Art"


def test_entries_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find("dtd").name = "other"  # pyright: ignore[reportAttributeAccessIssue]
