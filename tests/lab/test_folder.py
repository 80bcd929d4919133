"""`data build --folder`: a built-in data set as a folder of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.core.errors import DataError
from steadyclip_lab.suite.folder import write_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, images in (("train", 3), ("test", 2)):
        for name in ("bell", "red apple", "zebra"):
            (tmp_path / "source" / split / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "source" / split / name / f"{i}.png")
    return tmp_path / "source"


def test_every_image_of_the_first_classes_is_a_file(source: Path, tmp_path: Path) -> None:
    assert write_folder(tmp_path / "out", str(source), 2) == (10, 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bell", "red apple"]
    for name in ("bell", "red apple"):
        written = {path.read_bytes() for path in (tmp_path / "out" / name).iterdir()}
        assert written == {path.read_bytes() for path in source.glob(f"*/{name}/*.png")}
    data = sc.load_data(tmp_path / "out")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 4, "val": 2, "test": 4}
    assert write_folder(tmp_path / "all", str(source)) == (15, 3)


def test_other_files_are_not_mixed_in(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is there already: name a new folder"):
        write_folder(source, str(source))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--folder out", "--folder takes one data set: name it"),
        ("lab-food lab-wild --folder out", "--folder takes one data set"),
        ("lab-food --classes 3", "--classes is for --folder"),
    ],
)
def test_what_is_missing_is_said(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", *words.split()]) == 2
    assert line in capsys.readouterr().err
