"""`runs list`, `show` and `compare`, and the class by class report: from folders that `train` and `evaluate` left."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadyclip.cli import main
from steadyclip.evaluation import Answers, Record
from steadyclip.models.testing import write_tiny
from steadyclip.report.compare import compare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and two runs on them: one that moves much, one that moves little."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "&lt;cow"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / "photos" / name / f"{i}.png")
    write_tiny("clip", folder / "model")
    for name, row in (("one", "lora[steps=2]"), ("two", "full[steps=8,learning_rate=0.01,warmup_steps=0]")):
        words = f"train --data {folder}/photos --model {folder}/model --out {folder}/runs/{name} --method {row}"
        assert main([*words.split(), "--no-progress", "--device", "cpu"]) == 0
        assert main(f"evaluate {folder}/runs/{name} --data {folder}/photos --device cpu".split()) == 0
    return folder


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", str(folder / "runs"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {Path(row["run"]).name for row in rows} == {"one", "two"}
    assert {row["steps"] for row in rows} == {2, 8}
    assert all(row["verdict"] in ("better", "worse", "not told apart") for row in rows)
    assert main(["runs", "list", str(folder / "runs")]) == 0
    assert "verdict" in capsys.readouterr().out


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", str(folder / "runs" / "two")]) == 0
    said = capsys.readouterr().out
    assert "full[" not in said.split("\n")[0]
    assert "photos, 3 classes (all)" in said
    assert "recipe.learning_rate" in said
    assert "On your 18 test images: " in said


def test_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = folder / "runs" / "one", folder / "runs" / "two"
    found = compare(one, two)
    assert {name for name, *_ in found.settings} >= {"method.name", "recipe.steps"}
    (test,) = found.tests
    answers = [Answers.read(next((run / "records").glob("*.parquet"))) for run in (one, two)]
    right = [np.array(each.correct) for each in answers]
    assert test.gained is not None
    assert test.lost is not None
    assert len(test.gained) == int((right[1] & ~right[0]).sum())
    assert len(test.lost) == int((right[0] & ~right[1]).sum())
    assert test.difference.mean == pytest.approx(100 * (right[1].mean() - right[0].mean()))
    back = compare(two, one).tests[0]
    assert (back.gained and {row.path for row in back.gained}) == (test.lost and {row.path for row in test.lost})
    words = f"runs compare {one} {two} --out {tmp_path}/c.html --data {folder}/photos"
    assert main(words.split()) == 0
    assert "photos, all (18)" in capsys.readouterr().out
    page = (tmp_path / "c.html").read_text()
    assert page.count("data:image/jpeg;base64") == len(test.gained) + len(test.lost)
    assert "&amp;lt;cow" in page  # a name is text


def test_classes_and_confusions_as_csv(folder: Path, tmp_path: Path) -> None:
    run = folder / "runs" / "two"
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    record = Record.read(next((run / "records").glob("*.json")))
    frozen = Record.read(next((run / "records" / "frozen").glob("*.json")))
    rows = {row["class"]: row for row in csv.DictReader((tmp_path / "page-classes.csv").read_text().splitlines())}
    for before, after in zip(frozen.per_class, record.per_class, strict=True):
        row = rows[after.name]
        assert int(row["images"]) == after.images
        assert float(row["frozen"]) == pytest.approx(100 * before.correct / before.images, abs=0.01)
        assert float(row["run"]) == pytest.approx(100 * after.correct / after.images, abs=0.01)
    answers = Answers.read(next((run / "records").glob("*.parquet")))
    expected = Counter((a, b) for a, b in zip(answers.label, answers.predicted, strict=True) if a != b)
    pairs = list(csv.DictReader((tmp_path / "page-confusions.csv").read_text().splitlines()))
    assert {(row["class"], row["taken_for"]): int(row["images"]) for row in pairs} == expected
    assert [int(row["images"]) for row in pairs] == sorted(expected.values(), reverse=True)
    page = (tmp_path / "page.html").read_text()
    assert "Class by class" in page
    assert "How sure it is" in page
    assert page.count('aria-label="Share of right answers against how sure the model was"') == 1
    assert "&amp;lt;cow" in page


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("runs list {folder}/nowhere", "there is no folder"),
        ("runs list {folder}/photos", "holds no run"),
        ("runs show {folder}/photos", "run.json"),
        ("runs compare {folder}/runs/one {folder}/model", "run.json"),
    ],
)
def test_what_is_no_run(words: str, line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.format(folder=folder).split()) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_runs_that_share_no_test(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(folder / "runs" / "one", tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "records")
    assert main(["runs", "compare", str(tmp_path / "one"), str(folder / "runs" / "two")]) == 1
    assert "were not scored on the same test images" in capsys.readouterr().err
