"""Paired differences: against a naive bootstrap, a closed form, and what an interval must do."""

from __future__ import annotations

import numpy as np
import pytest

from steadyclip.core.errors import DataError
from steadyclip.evaluation.paired import Bootstrap, Difference, packed, unpacked


def paired_difference(ours, theirs, groups=None, column=None, draws=2000) -> Difference:
    groups = groups or {name: [np.arange(c.shape[1]) for c in of] for name, of in ours.items()}
    bootstrap = Bootstrap(groups, draws)
    return bootstrap.scores(ours).minus(bootstrap.scores(theirs), column)


def answers(rng: np.random.Generator, shares, seeds: int = 1, images: int = 400) -> list[np.ndarray]:
    return [rng.random((seeds, images)) < share for share in shares]


def naive(ours, theirs, groups, column, draws, seed) -> tuple[float, float]:
    """One draw after the other, with indices."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        columns = {0: [[], []], 1: [[], []]}
        for name in rng.choice(list(ours), size=len(ours)):
            mine, other = ours[name], theirs[name]
            picks = rng.integers(len(mine[0]), size=len(mine[0]))
            others = picks if len(other[0]) == len(mine[0]) else rng.integers(len(other[0]), size=len(other[0]))
            for c in (0, 1):
                members = [np.flatnonzero(groups[name][c] == g) for g in range(groups[name][c].max() + 1)]
                index = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
                columns[c][0].append(mine[c][picks][:, index].mean())
                columns[c][1].append(other[c][others][:, index].mean())
        base, new = ([np.mean(columns[c][m]) for m in (0, 1)] for c in (0, 1))
        scores = (
            [base, new][column] if column is not None else [2 * b * n / (b + n) for b, n in zip(base, new, strict=True)]
        )
        found.append(100 * (scores[0] - scores[1]))
    low, high = np.quantile(found, [0.025, 0.975])
    return low, high


@pytest.mark.parametrize("column", [None, 0, 1])
def test_against_a_naive_bootstrap(column) -> None:
    rng = np.random.default_rng(3)
    ours = {name: answers(rng, (0.7 + shift, 0.6), 3, 90) for name, shift in (("a", 0.0), ("b", 0.1), ("c", -0.2))}
    theirs = {name: answers(rng, (0.6, 0.65), 1, 90) for name in ours}
    groups = {name: [np.arange(90) // 3, np.arange(90) % 20] for name in ours}
    found = paired_difference(ours, theirs, groups, column=column, draws=4000)
    low, high = naive(ours, theirs, groups, column, 3000, 5)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2)
    means = [[np.mean([of[name][c].mean() for name in of]) for c in (0, 1)] for of in (ours, theirs)]
    scores = [m[column] if column is not None else 2 * m[0] * m[1] / sum(m) for m in means]
    assert found.mean == pytest.approx(100 * (scores[0] - scores[1]))


def test_of_one_set_and_seed_it_is_that_of_the_pairs() -> None:
    """The standard error of the mean of the differences of the pairs."""
    rng = np.random.default_rng(0)
    (theirs,) = answers(rng, (0.6,), images=2000)
    ours = theirs ^ (rng.random(theirs.shape) < 0.05)  # one answer in twenty is another
    found = paired_difference({"a": [ours]}, {"a": [theirs]}, column=0, draws=5000)
    error = 100 * (ours.astype(float) - theirs).std() / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    alone = 100 * np.sqrt(0.6 * 0.4 / 2000) * np.sqrt(2)
    assert error < 0.4 * alone  # what two intervals side by side would say


def test_images_of_one_group_are_one_observation() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (np.repeat(rng.random((1, 50)) < share, 20, axis=1) for share in (0.6, 0.5))
    groups = {"a": [np.repeat(np.arange(50), 20)]}
    apart = paired_difference({"a": [ours]}, {"a": [theirs]}, column=0)
    together = paired_difference({"a": [ours]}, {"a": [theirs]}, groups, column=0)
    assert together.high - together.low == pytest.approx(np.sqrt(20) * (apart.high - apart.low), rel=0.15)


def test_the_same_answers_differ_by_nothing_and_draws_are_the_same_twice() -> None:
    rng = np.random.default_rng(2)
    ours = {"a": answers(rng, (0.7, 0.5), 3), "b": answers(rng, (0.2, 0.9), 3)}
    assert paired_difference(ours, ours) == Difference(0.0, 0.0, 0.0)
    theirs = {name: answers(rng, (0.5, 0.5), 3) for name in ours}
    assert paired_difference(ours, theirs) == paired_difference(ours, theirs)
    assert Difference(1, 0.5, 2).sure
    assert not Difference(1, -0.5, 2).sure


def test_what_cannot_be_compared() -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(DataError, match="scored were b, to be compared are a"):
        paired_difference({"a": answers(rng, (0.5,))}, {"b": answers(rng, (0.5,))}, column=0)
    with pytest.raises(DataError, match="a was scored on 10 test images, not 400"):
        paired_difference({"a": answers(rng, (0.5,))}, {"a": answers(rng, (0.5,), images=10)}, column=0)


@pytest.mark.parametrize("images", [1, 7, 8, 9, 1000])
def test_answers_are_kept_whole(images: int) -> None:
    correct_N = np.random.default_rng(images).random(images) < 0.5
    assert np.array_equal(unpacked(packed(correct_N), images), correct_N)
