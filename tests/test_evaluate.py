"""`evaluate` and `report` on the command line: a run beside the frozen model, image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadyclip.cli import main
from steadyclip.data import load_data
from steadyclip.evaluation import Answers, Record, evaluate
from steadyclip.evaluation.forgetting import same_test
from steadyclip.methods import get_method
from steadyclip.models import load
from steadyclip.models.testing import write_tiny
from steadyclip.training import load_run


def draw(folder: Path, names: str, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names.split():
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "photos", "ant bee cow dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny("clip", folder)
    return folder


@pytest.fixture(scope="module", params=["full", "lora", "linear-probe"])
def run(request: pytest.FixtureRequest, photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated on its own data, and on others."""
    out = tmp_path_factory.mktemp("runs") / request.param
    row = request.param if request.param == "linear-probe" else f"{request.param}[steps=4,learning_rate=0.01]"
    others = draw(out.parent / "others", "elk fox gnu", seed=1)
    assert main(f"train --data {photos} --model {model} --method {row} --out {out} --no-progress".split()) == 0
    assert main(f"evaluate {out} --data {photos} --rest {others} --device cpu".split()) == 0
    return out


def test_the_frozen_model_is_scored_as_it_was_before_training(run: Path, photos: Path, model: Path) -> None:
    data = load_data(photos)
    fresh = evaluate(load(str(model)), get_method("zero-shot"), data.test_set())
    (kept,) = (record for file in (run / "records" / "frozen").glob("photos*.json") if (record := Record.read(file)))
    assert kept.correct == fresh.correct
    assert kept.per_class == fresh.per_class
    assert kept.metrics == fresh.metrics
    assert kept.training is None
    records = [Record.read(file) for file in (run / "records").glob("photos*.json")]
    assert [same_test(kept, record) for record in records] == [True]


def test_scoring_leaves_the_run_as_it_was(run: Path, photos: Path) -> None:
    trained, method, content = load_run(run)
    before = {name: tensor.clone() for name, tensor in trained.trained_state().items()}
    evaluate(trained, get_method("zero-shot"), load_data(photos).test_set())
    after = trained.trained_state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (file,) = (run / "records").glob("photos*.json")
    again = evaluate(trained, method, load_data(photos).test_set(), run=content)
    assert again.correct == Record.read(file).correct


def test_answers_lie_beside_every_record_that_has_a_score(run: Path) -> None:
    for file in (run / "records").rglob("*.json"):
        record = Record.read(file)
        answers = file.with_suffix(".parquet")
        assert answers.exists() == (record.metrics is not None)
        if record.metrics:
            found = Answers.read(answers)
            assert len(found) == record.data.images
            assert sum(found.correct) == sum(each.correct for each in record.per_class)


def test_the_rest_is_what_was_not_trained_on(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (record,) = (Record.read(file) for file in (run / "records").glob("others*.json"))
    assert record.role == "transfer"
    assert record.data.classes == ("elk", "fox", "gnu")
    code = main(["report", str(run), "--out", str(tmp_path / "page.html"), "--max-loss", "100"])
    out, error = capsys.readouterr()
    first, second, *_ = out.splitlines()
    assert first.startswith("On your 12 test images: ")
    if record.metrics is None:
        assert second.startswith("On the rest it cannot be used: ")
        assert code == 1
        assert "the rest, which was not measured" in error
    else:
        assert second.startswith("On the rest, others (9 images): ")
        assert code == 0
    assert main(["report", str(run), "--out", str(tmp_path / "page.html"), "--require", "better"]) in (0, 1)


def test_the_same_evaluation_again_gives_the_same_files(run: Path, photos: Path) -> None:
    before = {file.name: file.read_bytes() for file in (run / "records").rglob("photos*.parquet")}
    assert main(f"evaluate {run} --data {photos} --device cpu".split()) == 0
    assert {file.name: file.read_bytes() for file in (run / "records").rglob("photos*.parquet")} == before


def test_a_rest_that_is_not_there(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--data", str(photos), "--rest", "lab-fod"]) == 1
    assert "no folder, file or built-in data 'lab-fod'. Did you mean 'lab-food'?" in capsys.readouterr().err


def test_a_verdict_in_python(run: Path) -> None:
    import steadyclip as sc

    found = sc.verdict(run)
    assert found is not None
    assert len(found.sentences) == 3
    assert found.own.images == 12
