from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sk_confusion

from steadyclip.evaluation import metrics

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_accuracies_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predicted = map(list, zip(*rows, strict=True))
    labels_N, predicted_N = torch.tensor(labels), torch.tensor(predicted)
    assert metrics.top1(predicted_N, labels_N) == pytest.approx(accuracy_score(labels, predicted))
    expected = sk_confusion(labels, predicted, labels=range(5))
    assert metrics.confusion_matrix(predicted_N, labels_N, 5).tolist() == expected.tolist()
    seen = sorted(set(labels))  # scikit-learn warns on predicted classes without images; recall by hand, as it does
    recalls = [expected[c, c] / expected[c].sum() for c in seen]
    assert metrics.mean_per_class(predicted_N, labels_N, 5) == pytest.approx(np.mean(recalls))


def test_mean_per_class_equals_balanced_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N, predicted_N = torch.randint(0, 7, (2, 500), generator=generator)
    expected = balanced_accuracy_score(labels_N, predicted_N)
    assert metrics.mean_per_class(predicted_N, labels_N, 7) == pytest.approx(expected)


def naive_ece(confidence: list[float], correct: list[bool], bins: int) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins or (m == 0 and c == 0.0)]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            mean_confidence = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean_confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_the_loop(bins: int) -> None:
    generator = torch.Generator().manual_seed(bins)
    confidence_N = torch.rand(400, generator=generator, dtype=torch.float64)
    confidence_N[:3] = torch.tensor([0.0, 1.0, 0.5])
    correct_N = torch.rand(400, generator=generator) < 0.6
    expected = naive_ece(confidence_N.tolist(), correct_N.tolist(), bins)
    assert metrics.ece(confidence_N, correct_N, bins) == pytest.approx(expected, abs=1e-12)


def test_ece_of_known_cases() -> None:
    sure = torch.ones(10)
    assert metrics.ece(sure, torch.ones(10, dtype=torch.bool)) == 0
    assert metrics.ece(sure, torch.zeros(10, dtype=torch.bool)) == 1
    assert metrics.ece(torch.full((10,), 0.8), torch.arange(10) < 6) == pytest.approx(0.2)


def test_bootstrap_interval_agrees_with_resampling_the_images() -> None:
    correct_N = torch.arange(400) < 260
    low, high = metrics.bootstrap_interval(correct_N, seed=0, draws=4000)
    rng = np.random.default_rng(1)
    means = correct_N.numpy()[rng.integers(0, 400, (4000, 400))].mean(axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.006)
    assert low < 0.65 < high


def test_bootstrap_interval_is_fixed_by_its_seed() -> None:
    correct_N = torch.arange(97) % 3 > 0
    assert metrics.bootstrap_interval(correct_N, seed=3) == metrics.bootstrap_interval(correct_N, seed=3)
    some, others = (metrics.bootstrap_interval(correct_N, seed=seed, draws=50) for seed in (3, 4))
    assert some != others


def test_bootstrap_interval_over_groups_agrees_with_drawing_them_one_by_one() -> None:
    groups = [i // 8 if i < 160 else i // 2 - 60 for i in range(400)]  # 20 groups of 8 and 120 of 2
    correct_N = torch.tensor([(7 * g) % 10 < 6 for g in groups])
    rng, group_N, right_N = np.random.default_rng(1), np.array(groups), correct_N.numpy()
    of_group = [np.flatnonzero(group_N == g) for g in range(140)]
    means = [right_N[np.concatenate([of_group[g] for g in rng.integers(0, 140, 140)])].mean() for _ in range(4000)]
    low, high = metrics.bootstrap_interval(correct_N, groups, draws=4000)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.008)
    alone = metrics.bootstrap_interval(correct_N, draws=4000)
    assert high - low > 1.5 * (alone[1] - alone[0])
    each = metrics.bootstrap_interval(correct_N, range(400), draws=4000)
    assert each == pytest.approx(alone, abs=0.006)


def test_bootstrap_interval_of_a_perfect_score() -> None:
    assert metrics.bootstrap_interval(torch.ones(20, dtype=torch.bool)) == (1.0, 1.0)
