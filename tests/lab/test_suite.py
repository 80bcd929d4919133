"""The suite: composition by rule, teams on one side, the same bytes twice, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from steadyclip.core.errors import DataError
from steadyclip.data import load_data
from steadyclip.data.builtin import find_builtin
from steadyclip_lab.drawings.sets import TRAIN
from steadyclip_lab.suite import building
from steadyclip_lab.suite.building import build
from steadyclip_lab.suite.effects import COLORS, EFFECTS
from steadyclip_lab.suite.plan import DATA_SETS, ROBUST, ROBUST_TRAVEL, SUITE, LabSet, Sample

SMALL = LabSet("lab-small", "one scene", "food", "clutter", per_class=(2, 1, 1))


def samples(data_set: LabSet) -> list[Sample]:
    return [sample for label in data_set.classes for sample in data_set.samples(label)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> LabSet:
    """A data set of a few images, known for the test."""
    monkeypatch.setattr(LabSet, "classes", property(lambda self: ["bread", "carrot"]))
    monkeypatch.setitem(DATA_SETS, SMALL.name, SMALL)
    return SMALL


@pytest.mark.parametrize("name", DATA_SETS)
def test_composition(name: str) -> None:
    data_set = DATA_SETS[name]
    found = samples(data_set)
    assert len({sample.key for sample in found}) == len(found)
    for sample in found:
        assert (sample.drawing.team in TRAIN) == (sample.split != "test")
    half = len(data_set.classes) // 2
    for classes in (data_set.classes[:half], data_set.classes[half:]):
        assert sum(one.split == "test" and one.label in set(classes) for one in found) >= 800
    for label in data_set.classes:
        for split, count in zip(("train", "val"), data_set.per_class[:2], strict=True):
            assert sum(one.label == label and one.split == split for one in found) == count


def test_twelve_sets_and_the_robust_ones() -> None:
    assert len(SUITE) == 12
    assert len(EFFECTS) == 25
    assert len(SUITE["lab-colored"].classes) == 10 * len(COLORS) == 100
    assert Counter(one.domain for one in samples(ROBUST) if one.split == "test").keys() == {
        "plain", "wild", "clutter", "sketch", "night", "emoji",
    }  # fmt: skip
    travel = [one for one in samples(ROBUST_TRAVEL) if one.split == "test"]
    assert Counter(one.domain for one in travel) == dict.fromkeys(("plain", "wild", "clutter", "sketch", "night"), 1100)
    assert {one.domain for one in samples(ROBUST_TRAVEL) if one.split != "test"} == {"plain"}
    assert {one.drawing.colored for one in travel} == {True, False}  # these are emoji, most of them


def test_a_class_shows_as_many_drawings_as_there_are() -> None:
    things = SUITE["lab-things"]
    for label in things.classes[:10]:
        shown = [one.drawing.key for one in things.samples(label) if one.split in ("train", "val")]
        most = max(Counter(shown).values())
        assert most == 1 or min(Counter(shown).values()) >= most - 1


@pytest.mark.parametrize("name", ["lab-things", "lab-wild", "lab-clutter", "lab-sketch", "lab-night"])
def test_the_ground_differs_where_the_drawing_is(name: str) -> None:
    data_set = DATA_SETS[name]
    for label in data_set.classes[::40]:
        sample = next(iter(data_set.samples(label)))
        shown, ground = (
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
            for png in (sample.image(), sample.ground())
        )
        differs = np.abs(shown - ground).max(axis=2) > 24
        assert 0.01 < differs.mean() < 0.7
        if name == "lab-things":  # one color all over
            assert np.ptp(ground.reshape(-1, 3), axis=0).max() == 0


@pytest.mark.parametrize("name", ["lab-wild", "lab-clutter", "lab-sketch", "lab-night", "lab-effects", "lab-colored"])
def test_images_are_drawn_and_the_same_twice(name: str) -> None:
    data_set = DATA_SETS[name]
    for label in data_set.classes[:: len(data_set.classes) // 5]:
        sample = next(iter(data_set.samples(label)))
        image = Image.open(io.BytesIO(sample.image()))
        assert image.size == (64, 64)
        low, high = image.convert("L").getextrema()
        assert isinstance(low, int)
        assert isinstance(high, int)
        assert high - low > 20, sample.key
        assert sample.image() == sample.image()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in DATA_SETS if name != "lab-things"]


@pytest.mark.parametrize("name", ["lab-things", *SLOW])
def test_all_images_are_the_published_ones(name: str) -> None:
    hashed = hashlib.sha256()
    for sample in samples(DATA_SETS[name]):
        hashed.update(sample.image())
    assert hashed.hexdigest() == json.loads(building.PUBLISHED.read_text())[name]


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_changes_the_drawing(effect: str) -> None:
    sample = next(iter(SUITE["lab-effects"].samples(effect)))
    assert sample.image() != next(iter(SUITE["lab-things"].samples("bell"))).image()


class TestBuilding:
    def test_other_images_than_the_published_ones_are_told(
        self, small: LabSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "images.json").write_text(json.dumps({small.name: "0" * 64}))
        build([small.name], tmp_path / "one", progress=False)
        assert "warning" not in capsys.readouterr().err
        monkeypatch.setattr(building, "PUBLISHED", tmp_path / "images.json")
        build([small.name], tmp_path / "two", progress=False)
        assert "warning: lab-small has other images here than where" in capsys.readouterr().err

    def test_build_loads_and_is_kept(self, small: LabSet, tmp_path: Path) -> None:
        build([small.name], tmp_path, progress=False)
        path = tmp_path / f"{small.name}.parquet"
        task = load_data(path)
        assert list(task.classes) == ["bread", "carrot"]
        before = path.stat().st_ino
        build([small.name], tmp_path, progress=False)
        assert path.stat().st_ino == before

    def test_another_process_writes_the_same_bytes(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from steadyclip_lab.suite import plan\n"
            "plan.LabSet.classes = property(lambda self: ['bread', 'carrot'])\n"
            "plan.DATA_SETS['lab-food'] = plan.LabSet('lab-food', '', 'food', 'wild', per_class=(2, 1, 1))\n"
            "from steadyclip_lab.suite.building import build\n"
            "build(['lab-food'], Path({!r}), progress=False)"
        )
        for number in "12":
            environment = os.environ | {"PYTHONHASHSEED": number}
            subprocess.run([sys.executable, "-c", code.format(str(tmp_path / number))], check=True, env=environment)
        first, second = (tmp_path / number / "lab-food.parquet" for number in "12")
        assert first.read_bytes() == second.read_bytes()

    def test_built_anew_and_told_when_the_renderer_changes_or_the_file_is_damaged(
        self, small: LabSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build([small.name], tmp_path, progress=False)
        path = tmp_path / f"{small.name}.parquet"
        before = path.read_bytes()
        path.write_bytes(before[: len(before) // 2])
        assert "warning" not in capsys.readouterr().err
        build([small.name], tmp_path, progress=False)
        assert path.read_bytes() == before
        assert f"warning: {path} is damaged, and is built again" in capsys.readouterr().err
        path.write_bytes(before[:100] + bytes(255 - byte for byte in before[100:300]) + before[300:])  # within a page
        build([small.name], tmp_path, progress=False)  # what is said twice is printed once
        assert path.read_bytes() == before
        for about in ([], {**building.read_about(path), "name": "lab-other"}):
            table = pq.read_table(path)
            pq.write_table(table.replace_schema_metadata({building._METADATA_KEY: json.dumps(about)}), path)
            build([small.name], tmp_path, progress=False)
            assert path.read_bytes() == before
        assert f"warning: {path} holds lab-other, and is built again" in capsys.readouterr().err
        monkeypatch.setattr(building, "_made_of", lambda: "another")
        build([small.name], tmp_path, progress=False)
        assert building.read_about(path)["made_of"] == "another"
        assert "is of other drawings or another version, and is built again" in capsys.readouterr().err

    def test_each_version_has_a_folder_of_its_own(
        self, small: LabSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STEADYCLIP_CACHE", str(tmp_path))
        first = build([small.name], progress=False)
        monkeypatch.setattr(building, "_made_of", lambda: "another")
        second = build([small.name], progress=False)
        assert first != second == tmp_path / "lab-another"
        assert (first / f"{small.name}.parquet").is_file()

    def test_a_stopped_build_leaves_nothing(
        self, small: LabSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> list[bytes]:
            raise KeyboardInterrupt

        monkeypatch.setattr(building, "_images", stop)
        with pytest.raises(KeyboardInterrupt):
            build([small.name], tmp_path, progress=False)
        assert not list(tmp_path.glob("*"))

    def test_a_typo_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no data set 'lab-thing'.*lab-things"):
            build(["lab-thing"], tmp_path)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="cannot be written"):
            build(["lab-food"], tmp_path / "file" / "below", progress=False)


def test_every_set_is_found_by_its_name() -> None:
    for name in DATA_SETS:
        known = find_builtin(name)
        assert known is not None
        assert set(known.targets) <= DATA_SETS.keys() - {name}
