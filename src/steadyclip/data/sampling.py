"""Which images are drawn: few-shot samples as CoOp and Dassl draw them, and splits where a data set has none."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from typing import Literal

Subset = Literal["all", "base", "new"]

VAL_SHOTS = 4
"""At most this many validation images of a class go with a few-shot sample (CoOp)."""


def group(labels: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Positions of each label, labels in order of first appearance."""
    positions: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        positions.setdefault(label, []).append(index)
    return positions


def few_shot(
    train_labels: Sequence[int], val_labels: Sequence[int], shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """Positions of a ``shots``-shot sample of train, and of one with ``min(shots, 4)`` of val.

    CoOp's and Dassl's procedure: one generator seeded with ``seed``; for each label in order of first appearance
    ``random.sample``, or every image where a label has fewer; first train, then val. Base or new classes are chosen
    after sampling, so that the sample of a class is the same with either.
    """
    rng = random.Random(seed)

    def draw(labels: Sequence[int], count: int) -> list[int]:
        return [
            i for items in group(labels).values() for i in (rng.sample(items, count) if len(items) >= count else items)
        ]

    return draw(train_labels, shots), draw(val_labels, min(shots, VAL_SHOTS))


def class_range(classes: int, subset: Subset) -> tuple[int, int]:
    """First and last (exclusive) class of the subset: base is the first ``ceil(classes / 2)``, new the rest (CoOp)."""
    middle = math.ceil(classes / 2)
    return {"all": (0, classes), "base": (0, middle), "new": (middle, classes)}[subset]


def split_three(labels: Sequence[str], seed: int, shares: tuple[float, float] = (0.5, 0.2)) -> list[str]:
    """A split name for each image: per class a seeded shuffle, by default 50 % train, 20 % val, the rest test.

    The default shares are CoOp's for Caltech101 and DTD. Each class has its own generator, so that adding a class
    leaves the split of the others alone, and at least one training and one test image where it has two.
    """
    splits = ["test"] * len(labels)
    for label, items in group(labels).items():
        random.Random(f"{seed}/{label}").shuffle(items)
        train = max(1, round(shares[0] * len(items)))
        val = max(0, min(round(shares[1] * len(items)), len(items) - train - 1))
        for rank, index in enumerate(items[: train + val]):
            splits[index] = "train" if rank < train else "val"
    return splits


def split_val(labels: Sequence[str], seed: int) -> list[str]:
    """ "train" or "val" for each training image: 20 % per class go to val, as CoOp did where no val was given."""
    splits = ["train"] * len(labels)
    for label, items in group(labels).items():
        random.Random(f"{seed}/{label}").shuffle(items)
        for index in items[: round(0.2 * len(items))]:
            splits[index] = "val"
    return splits
