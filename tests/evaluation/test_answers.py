"""The answer to every image, and what is made of two evaluations of the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steadyclip.core.errors import DataError
from steadyclip.data.images import ImageSet
from steadyclip.evaluation import Answers, evaluate
from steadyclip.evaluation.paired import Bootstrap, change, unpacked
from steadyclip.methods import get_method
from steadyclip.models import DualEncoder


def test_answers_are_those_of_the_record(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    kept: list[Answers] = []
    record = evaluate(model, get_method("zero-shot"), pictures, keep=kept.append)
    (answers,) = kept
    assert answers.path == pictures.keys
    assert answers.label == tuple(pictures.classes[i] for i in pictures.labels)
    assert answers.correct == tuple(a == b for a, b in zip(answers.label, answers.predicted, strict=True))
    assert answers.correct == tuple(unpacked(record.correct, len(answers)).tolist())
    assert all(1 / 3 <= score <= 1 for score in answers.score)
    assert Answers.read(answers.write(tmp_path / "a.parquet")) == answers


def test_what_holds_no_answers(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    for name in ("a.parquet", "nowhere.parquet"):
        with pytest.raises(DataError, match=f"{name} does not hold the answers"):
            Answers.read(tmp_path / name)


def test_a_change_is_that_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 900)) < [[0.6], [0.68]]
    groups = rng.permutation(np.repeat(np.arange(300), 3)).tolist()
    for of in ([], groups):
        bootstrap = Bootstrap({"x": [np.array(of) if of else np.arange(900)]}, draws=4000)
        expected = bootstrap.scores({"x": [after[None]]}).minus(bootstrap.scores({"x": [before[None]]}), 0)
        found = change(before, after, of)
        assert found.mean == pytest.approx(expected.mean, abs=1e-4)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.4)
    assert change(before, after) == change(before, after)


def _answers(images: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.zeros(images, bool), np.zeros(images, bool)
    after[:gained] = True
    before[gained : gained + lost] = True
    return before, after


@pytest.mark.parametrize("images", [6, 20, 60, 500])
def test_few_images_that_change_are_chance(images: int) -> None:
    """As the exact sign test of McNemar says: five of five have a p of 0.06, six of six of 0.03."""
    for gained in (1, 3, 4):
        assert not change(*_answers(images, gained, 0)).sure
    assert change(*_answers(max(images, 8), 8, 0)).sure
    assert not change(*_answers(images, 3, 3)).sure


def test_a_few_images_never_give_an_interval_without_width() -> None:
    found = change(*_answers(3, 3, 0))
    assert found.mean == 100
    assert found.low < 0 < found.high
