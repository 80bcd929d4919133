"""By how much one method is better than another on the same test images, with an interval.

Two accuracies whose intervals overlap may still differ for sure: most images are right, or wrong, under both methods,
and only the others count. So what is resampled is the same for all methods, and the differences are looked at.

Shapes: B draws, D data sets, C sets of classes, S seeds, N test images of one set of classes, R times that a data set
was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steadyclip.core.errors import DataError

_DRAWS = 10_000
"""Of ``change``: its bounds then move by a tenth of their distance at most with another seed."""


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


@dataclass(frozen=True)
class Scores:
    """Accuracies of one method, mean over data sets: as they are (C,), and in each draw (C, B)."""

    plain_C: np.ndarray
    drawn_CB: np.ndarray

    def minus(self, other: Scores, column: int | None = None) -> Difference:
        """The difference in one set of classes; None is H, the harmonic mean of the first two (base and new).

        The interval is that between the 2.5 % and the 97.5 % quantile of the draws.
        """
        drawn_B = _score(self.drawn_CB, column) - _score(other.drawn_CB, column)
        low, high = np.quantile(100 * drawn_B, [0.025, 0.975])
        return Difference(
            float(100 * (_score(self.plain_C, column) - _score(other.plain_C, column))), float(low), float(high)
        )


class Bootstrap:
    """Draws of data sets, of seeds and of images, the same for every method that is scored with them.

    Each draw takes data sets with replacement, and in each of them the seeds of a method and the images. The seeds are
    drawn alike for methods that have as many: one seed fixes one few-shot sample, so they are pairs.
    """

    def __init__(self, groups: Mapping[str, Sequence[np.ndarray]], draws: int = 1000, seed: int = 0) -> None:
        """``groups``: data set -> for each set of classes a group number (N,) for each image. Images of one group are
        drawn together, as two views of one thing are no two observations; ``np.arange(N)`` draws each alone.
        """
        self.groups, self.draws, self.seed = groups, draws, seed
        rng = np.random.default_rng(seed)
        self._sets_BD = rng.integers(len(groups), size=(draws, len(groups)))
        times = [int((self._sets_BD == d).sum()) for d in range(len(groups))]  # a set drawn twice is resampled twice
        self._weights = {
            name: [_weights(rng, group_N, count) for group_N in of]
            for (name, of), count in zip(groups.items(), times, strict=True)
        }

    def scores(self, correct: Mapping[str, Sequence[np.ndarray]]) -> Scores:
        """The scores of one method.

        Args:
            correct: data set -> for each set of classes which images were right, (S, N) booleans.

        Raises:
            DataError: other data sets or other numbers of images.
        """
        if correct.keys() != self.groups.keys():
            raise DataError(f"scored were {', '.join(correct)}, to be compared are {', '.join(self.groups)}.")
        columns = len(next(iter(self.groups.values())))
        plain_CD = np.empty((columns, len(self.groups)))
        drawn_CBD = np.empty((columns, self.draws, len(self.groups)))
        for d, (name, weights) in enumerate(self._weights.items()):
            place, seeds = np.nonzero(self._sets_BD == d), len(correct[name][0])
            picks_RS = np.random.default_rng([self.seed, d, seeds]).integers(seeds, size=(len(place[0]), seeds))
            for c, (weights_RN, correct_SN) in enumerate(zip(weights, correct[name], strict=True)):
                if weights_RN.shape[1] != correct_SN.shape[1]:
                    of = f"{correct_SN.shape[1]} test images, not {weights_RN.shape[1]}"
                    raise DataError(f"{name} was scored on {of}: such scores cannot be compared.")
                accuracy_RS = weights_RN @ correct_SN.T.astype(np.float32)
                drawn_CBD[c][place] = np.take_along_axis(accuracy_RS, picks_RS, axis=1).mean(axis=1)
                plain_CD[c, d] = correct_SN.mean()
        return Scores(plain_CD.mean(axis=1), drawn_CBD.mean(axis=2))


def change(before_N: np.ndarray, after_N: np.ndarray, groups: Sequence[int] = (), seed: int = 0) -> Difference:
    """By how much the share of right answers changed on N images, in percent points.

    The interval is a paired bootstrap over the groups of images; without ``groups`` each stands alone. One group that
    was gained and one that was lost are added to what is drawn from (Agresti and Min 2005): of few images, three that
    happen to be gained would otherwise look like a sure thing. The difference itself is that of the images alone.

    How often each group is drawn decides the result only through the kinds of groups there are (size, net gain), so
    that the draws are of the kinds: the same law, without N numbers for each draw.
    """
    gained_N = after_N.astype(int) - before_N.astype(int)
    group_N = np.array(groups) if len(groups) else np.arange(len(gained_N))
    size_G, net_G = np.bincount(group_N), np.rint(np.bincount(group_N, weights=gained_N)).astype(int)
    usual = max(1, round(len(gained_N) / len(size_G)))
    kinds_KX, count_K = np.unique(
        np.stack([[*size_G, usual, usual], [*net_G, usual, -usual]], axis=1), axis=0, return_counts=True
    )
    times_BK = np.random.default_rng(seed).multinomial(count_K.sum(), count_K / count_K.sum(), size=_DRAWS)
    drawn_BX = times_BK @ kinds_KX
    low, high = np.quantile(100 * drawn_BX[:, 1] / drawn_BX[:, 0], [0.025, 0.975])
    return Difference(float(100 * gained_N.mean()), float(low), float(high))


def _score(values_C: np.ndarray, column: int | None) -> np.ndarray:
    if column is not None:
        return values_C[column]
    base, new = values_C[0], values_C[1]
    return 2 * base * new / np.maximum(base + new, 1e-12)


def _weights(rng: np.random.Generator, group_N: np.ndarray, draws: int) -> np.ndarray:
    """(draws, N) shares of the images when their groups are drawn with replacement; every row sums to 1."""
    groups = int(group_N.max()) + 1
    counts_RN = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)[:, group_N].astype(np.float32)
    return counts_RN / np.maximum(counts_RN.sum(axis=1, keepdims=True), 1)


def packed(correct_N: np.ndarray) -> str:
    """Booleans as hexadecimal digits, four to a digit, the first in the highest bit."""
    return np.packbits(np.asarray(correct_N, bool)).tobytes().hex()


def unpacked(text: str, images: int) -> np.ndarray:
    """The (N,) booleans of ``packed``; ``images`` is N."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)
