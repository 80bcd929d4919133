"""How a run learned, and how sure it is."""

from __future__ import annotations

import re

import numpy as np
import pytest

from steadyclip.evaluation.answers import Answers
from steadyclip.report.run_charts import bins, charts_of_run, loss, reliability, validation


def answers(score: list[float], correct: list[bool]) -> Answers:
    names = ("a",) * len(score)
    return Answers(tuple(map(str, range(len(score)))), names, names, tuple(score), tuple(correct))


def test_bins_of_a_few_images() -> None:
    sure, right, images = bins(answers([0.05, 0.09, 0.51, 0.55, 0.59, 1.0], [False, True, True, True, False, True]))
    assert sure == pytest.approx([7, 55, 100])
    assert right == pytest.approx([50, 200 / 3, 100])
    assert images.tolist() == [2, 3, 1]


def test_bins_against_the_calibration_error() -> None:
    """The error of a record is the mean gap between the two, weighted by images."""
    torch = pytest.importorskip("torch")
    from steadyclip.evaluation.metrics import ece

    rng = np.random.default_rng(0)
    score = rng.random(500)
    correct = rng.random(500) < score**2
    sure, right, images = bins(answers(score.tolist(), correct.tolist()))
    expected = ece(torch.tensor(score), torch.tensor(correct), bins=10)
    assert (np.abs(sure - right) * images).sum() / images.sum() == pytest.approx(100 * expected)


def test_curves_of_a_log() -> None:
    rows = [{"step": s, "loss": 2 / s} | ({"validation_top1": s / 20} if s > 5 else {}) for s in (5, 10, 15)]
    assert "training loss" in loss(rows)
    assert "validation accuracy" in validation(rows)
    assert loss(rows[:1]) == validation(rows[:2]) == ""
    assert loss(rows) == loss(rows)


def test_both_models_are_in_one_chart() -> None:
    run = answers([0.2, 0.9], [False, True])
    alone, both = reliability(run), reliability(run, answers([0.4], [True]))
    assert "frozen model" in both
    assert "frozen model" not in alone
    assert not re.search(r"#b05e", both)  # all colors are those of the page


def test_without_a_folder_there_is_nothing() -> None:
    assert charts_of_run(None, None) == {"learning": {}, "reliability": {}}
