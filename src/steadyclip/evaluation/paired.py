"""By how much one method is better than another on the same test images, with an interval.

Two accuracies whose intervals overlap may still differ for sure: most images are right, or wrong, under both methods,
and only the others count. So what is resampled is always the pair.

Shapes: B draws, D data sets, C sets of classes, S seeds, N test images of one set of classes, R times that a data set
was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steadyclip.core.errors import DataError

Correct = Sequence[np.ndarray]
"""Which test images were right, (S, N) booleans, for each set of classes of a data set: base and new, or one."""


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs in percent points, with the 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


def paired_difference(
    ours: Mapping[str, Correct],
    theirs: Mapping[str, Correct],
    groups: Mapping[str, Sequence[np.ndarray]] | None = None,
    *,
    column: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of the means over data sets, by a bootstrap over data sets, seeds and images.

    Each draw takes data sets with replacement; in each of them the seeds of both methods, the same where both have as
    many (as pairs: one seed fixes one few-shot sample), and the images, the same for both. Percentile interval.

    Args:
        ours: data set -> which images were right.
        theirs: the same data sets, each with the same images; other numbers of seeds are fine (zero-shot has one).
        groups: data set -> for each set of classes a group number (N,) for each image: images of one group are drawn
            together, as two views of one thing are no two observations. By default each image is a group.
        column: which set of classes to compare; None compares H, the harmonic mean of the averages of the first two.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        DataError: other data sets or other images.
    """
    names = list(ours)
    if not names or names != list(theirs):
        raise DataError(f"methods were scored on different data sets: {', '.join(ours)}; {', '.join(theirs)}.")
    rng = np.random.default_rng(seed)
    sets_BD = rng.integers(len(names), size=(draws, len(names)))
    columns = (0, 1) if column is None else (column,)
    drawn_2CBD = np.empty((2, len(columns), draws, len(names)))
    plain_2CD = np.empty((2, len(columns), len(names)))
    for d, name in enumerate(names):
        place = np.nonzero(sets_BD == d)  # a set that is drawn twice is resampled twice
        seeds_2 = _seeds(rng, len(ours[name][0]), len(theirs[name][0]), len(place[0]))
        for c, which in enumerate(columns):
            mine_SN, other_SN = np.asarray(ours[name][which], float), np.asarray(theirs[name][which], float)
            if mine_SN.shape[1] != other_SN.shape[1]:
                raise DataError(f"{name}: {mine_SN.shape[1]} and {other_SN.shape[1]} test images cannot be compared.")
            group_N = groups[name][which] if groups else np.arange(mine_SN.shape[1])
            weights_RN = _weights(rng, np.asarray(group_N), len(place[0]))
            for m, correct_SN in enumerate((mine_SN, other_SN)):
                accuracy_RS = np.take_along_axis(weights_RN @ correct_SN.T, seeds_2[m], axis=1)
                drawn_2CBD[m, c][place] = accuracy_RS.mean(axis=1)
                plain_2CD[m, c, d] = correct_SN.mean()
    means_2CB, plain_2C = drawn_2CBD.mean(axis=3), plain_2CD.mean(axis=2)
    difference_B = 100 * (_score(means_2CB[0]) - _score(means_2CB[1]))
    low, high = np.quantile(difference_B, [0.025, 0.975])
    return Difference(float(100 * (_score(plain_2C[0]) - _score(plain_2C[1]))), float(low), float(high))


def _score(means_C: np.ndarray) -> np.ndarray:
    """The one column, or the harmonic mean of two."""
    if len(means_C) == 1:
        return means_C[0]
    base, new = means_C
    return 2 * base * new / np.maximum(base + new, 1e-12)


def _seeds(rng: np.random.Generator, ours: int, theirs: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeds drawn with replacement, (draws, S) for each method; as pairs where both have as many."""
    mine = rng.integers(ours, size=(draws, ours))
    return mine, mine if ours == theirs else rng.integers(theirs, size=(draws, theirs))


def _weights(rng: np.random.Generator, group_N: np.ndarray, draws: int) -> np.ndarray:
    """(draws, N) shares of the images when their groups are drawn with replacement; every row sums to 1."""
    groups = group_N.max() + 1
    counts_BG = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    weights_BN = counts_BG[:, group_N].astype(float)
    total_B1 = weights_BN.sum(axis=1, keepdims=True)
    return weights_BN / np.maximum(total_B1, 1)


def packed(correct_N: np.ndarray) -> str:
    """Booleans as hexadecimal digits, four to a digit, the first in the highest bit."""
    return np.packbits(np.asarray(correct_N, bool)).tobytes().hex()


def unpacked(text: str, images: int) -> np.ndarray:
    """The (N,) booleans of ``packed``; ``images`` is N."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)
