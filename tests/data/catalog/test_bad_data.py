"""Data sets of the catalog that are not there, half there, or broken: `bench` and `data check` say so in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steadyclip.cli import main
from steadyclip.models.testing import write_tiny

Say = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """``refused(root)``: the line in which `bench` refuses dtd below ``root``; `data check --data` refuses it alike."""

    def say(root: Path, data: str = "dtd") -> str:
        capsys.readouterr()
        words = (
            f"bench base-to-new --methods zero-shot --data {data} --root {root} --out {tmp_path / 'out'} --no-progress"
        )
        assert main(words.split()) == 1
        bench = capsys.readouterr().err
        assert main(["data", "check", "--data", data, "--root", str(root)]) == 1
        assert capsys.readouterr().err == bench
        assert bench.startswith("error: ")
        assert bench.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return bench

    return say


def test_roots(lay, refused: Say, tmp_path: Path):
    assert f"no folder {tmp_path}/nowhere: name the one that holds the data sets, with --root" in refused(
        tmp_path / "nowhere"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"DTD is not in {empty}: put it into the folder dtd there (https://" in refused(empty)
    assert "no folder, file or built-in data 'dtdd'. Did you mean 'dtd'?" in refused(empty, "dtdd")


def test_archives_beside_the_folders(lay, refused: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("dtd-r1.0.1.tar.gz", "imagenet-a.tar", "EuroSAT.zip"):
        (tmp_path / name).touch()
    assert f"DTD is not in {tmp_path}, but dtd-r1.0.1.tar.gz lies there: extract it: put" in refused(tmp_path)
    assert "but imagenet-a.tar lies there" in refused(tmp_path, "imagenet-a")
    assert "lies there" not in refused(tmp_path, "imagenet")
    assert main(["data", "check", str(tmp_path)]) == 1
    out, error = capsys.readouterr()
    assert "EuroSAT         not there    eurosat/, but EuroSAT.zip lies there: extract it.\n" in out
    assert "data sets: extract the archives (DTD, EuroSAT, ImageNet-A). A data set of your own" in error
    assert main(["data", "check", "--data", str(tmp_path / "EuroSAT.zip")]) == 1
    assert "EuroSAT.zip is an archive: extract it, and name the folder" in capsys.readouterr().err
    assert main(["data", "check", "--data", str(tmp_path)]) == 1
    assert "class folders, but EuroSAT.zip lies there: extract it" in capsys.readouterr().err


def test_half_extracted(lay, refused: Say, tmp_path: Path):
    lay("DTD")
    shutil.rmtree(tmp_path / "dtd" / "images" / "thing_7")
    line = refused(tmp_path)
    assert (
        "3 of the 141 images named in split_zhou_DescribableTextures.json are not there, for instance thing_7/" in line
    )
    assert f"Extract the archive into {tmp_path / 'dtd'} again" in line
    shutil.rmtree(tmp_path / "dtd" / "images")
    (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").touch()
    assert f"images is missing in {tmp_path / 'dtd'}, but dtd-r1.0.1.tar.gz lies there" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"train": [["a', "cannot be read as JSON (Unterminated string"),
        ("", "cannot be read as JSON (Expecting value"),
        ("<!DOCTYPE html>", "cannot be read as JSON (Expecting value"),
        ("\ud800", "cannot be read as JSON ('utf-8' codec"),
        ("[1]", "must hold train, val and test lists of [path, label, class name]; it has list. Take it from https"),
        ('{"train": [], "val": []}', "it has ['train', 'val']. Take it from https"),
        ('{"train": null, "val": 3, "test": []}', "train must be a list of [path, label, class name]. Take it from"),
        (
            '{"train": [["a.jpg", 0]], "test": []}',
            "train[0]: expected [path, label, class name], found ['a.jpg', 0]. Mend",
        ),
        ('{"train": [], "test": []}', "has not the official number of images (train 0 for 47, val 0 for 47"),
    ],
)
def test_broken_split_files(lay, refused: Say, tmp_path: Path, text: str, line: str):
    lay("DTD")
    path = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    said = refused(tmp_path)
    assert path.name in said
    assert line in said
    if "JSON" in said:
        assert "it is cut off or another file. Take it from https://github.com/KaiyangZhou" in said


# ImageNet under shift, with `evaluate`


def test_shifts_of_imagenet_are_scored_as_imagenet_is_and_say_so(lay, tmp_path: Path, capsys):
    for name in ("ImageNet", "ImageNet-R", "ObjectNet", "EuroSAT"):
        lay(name)
    for path in (tmp_path / "objectnet-1.0").rglob("*.png"):
        Image.new("RGB", (12, 12), "blue").save(path)  # something is left when the border is cut off
    run, model = tmp_path / "run", tmp_path / "model"
    model.mkdir()
    write_tiny("clip", model)
    words = f"train --data imagenet --root {tmp_path} --model {model} --method zero-shot --shots 1 --out {run}"
    assert main([*words.split(), "--no-progress", "--templates", "a sketch of a {}."]) == 0

    def record(data: str) -> dict:
        assert main(["evaluate", str(run), "--data", data, "--root", str(tmp_path), "--device", "cpu"]) == 0
        (path,) = (run / "records").glob("*.json")
        content = json.loads(path.read_text())
        path.unlink()
        return content

    shifts = record("imagenet-r"), record("objectnet")
    assert [len(each["data"]["classes"]) for each in shifts] == [200, 113]
    assert [each["data"]["templates"] for each in shifts] == [["a sketch of a {}."]] * 2
    notes = [f"scored among its own {n} of 1000 classes." for n in (200, 113)]
    assert [each["note"][: len(note)] for each, note in zip(shifts, notes, strict=True)] == notes
    other = record("eurosat")
    assert other["data"]["templates"] == ["a centered satellite photo of {}."]
    assert "classes" not in other["note"]
