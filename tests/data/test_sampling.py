from __future__ import annotations

import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyclip.data.sampling import class_range, few_shot, split_three, split_val


def naive_few_shot(train, val, shots, seed):
    """Written from specs of the field, with the global generator: the oracle."""
    state = random.getstate()
    try:
        random.seed(seed)
        out = []
        for items, k in ((train, shots), (val, min(shots, 4))):
            by_label = collections.OrderedDict()
            for position, label in enumerate(items):
                by_label[label] = [*by_label.get(label, []), position]
            chosen = []
            for members in by_label.values():
                if len(members) < k:
                    chosen.extend(members)
                else:
                    chosen.extend(random.sample(members, k))
            out.append(chosen)
        return tuple(out)
    finally:
        random.setstate(state)


LABELS = st.lists(st.integers(0, 5), max_size=60)


@given(LABELS, LABELS, st.integers(1, 16), st.integers(0, 9))
def test_few_shot_is_the_fields_procedure(train, val, shots, seed):
    assert few_shot(train, val, shots, seed) == naive_few_shot(train, val, shots, seed)


def test_few_shot_known_values():
    # frozen: Python's random.sample with these seeds must not change under us
    assert few_shot([1, 0] * 6, [0, 1] * 6, 2, 1) == ([2, 8, 1, 5], [0, 6, 7, 11])


@pytest.mark.parametrize(("classes", "base"), [(100, 50), (37, 19), (2, 1), (3, 2)])
def test_base_takes_the_odd_class(classes: int, base: int):
    assert class_range(classes, "base") == (0, base)
    assert class_range(classes, "new") == (base, classes)
    assert class_range(classes, "all") == (0, classes)


def test_split_shares_and_stability():
    labels = ["cat"] * 20 + ["dog"] * 10
    splits = split_three(labels, seed=1)
    assert collections.Counter(splits[:20]) == {"train": 10, "val": 4, "test": 6}
    assert collections.Counter(splits[20:]) == {"train": 5, "val": 2, "test": 3}
    assert splits == split_three(labels, seed=1)
    assert splits != split_three(labels, seed=2)
    assert split_three(["ant"] * 7 + labels, seed=1)[7:] == splits  # a further class moves nobody


@pytest.mark.parametrize("count", range(2, 12))
def test_small_classes_can_train_and_test(count: int):
    splits = split_three(["x"] * count, seed=1)
    assert splits.count("train") >= 1
    assert splits.count("test") >= 1


def test_split_val():
    splits = split_val(["cat"] * 10 + ["dog"], seed=1)
    assert splits[:10].count("val") == 2
    assert splits[10] == "train"
