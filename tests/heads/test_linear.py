"""The linear head against scikit-learn, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from head_world import clusters, logits, task
from steadyclip.core.errors import UsageError
from steadyclip.evaluation import Scorer
from steadyclip.heads import LinearHead, NoHead
from steadyclip.heads.linear import logistic_regression
from steadyclip.methods import get_method
from steadyclip.models.testing import tiny
from steadyclip.objectives import Features, Image

NAMES = list("abcde")


@pytest.mark.parametrize("strength", [0.1, 3.16, 100.0])
def test_agrees_with_scikit_learn(strength: float) -> None:
    features_ND, labels_N = clusters(1)
    weight_CD, bias_C = logistic_regression(features_ND, labels_N, 5, strength, 1000)
    oracle = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit(
        features_ND.double().numpy(), labels_N.numpy()
    )
    np.testing.assert_allclose(weight_CD.numpy(), oracle.coef_, atol=2e-3)
    # a softmax does not change when the same number is added to all biases
    np.testing.assert_allclose(
        (bias_C - bias_C.mean()).numpy(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3
    )


def test_strength_comes_from_validation_and_equals_the_best_of_the_sweep() -> None:
    train, val = clusters(1, noise=1.2, per_class=6), clusters(2, noise=1.2)
    spec = LinearHead()
    chosen = spec.build(tiny("clip"), NAMES).solve(task(train, val), seed=1)
    accuracy = {}
    for strength in spec.sweep:
        oracle = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(train[0].numpy(), train[1].numpy())
        accuracy[strength] = oracle.score(val[0].numpy(), val[1].numpy())
    assert accuracy[chosen["strength"]] == max(accuracy.values())
    assert len(set(accuracy.values())) > 1  # else the test could not fail
    assert list(chosen["validation"]) == [str(strength) for strength in spec.sweep]


def test_a_given_strength_is_taken_and_without_validation_the_middle_of_the_sweep() -> None:
    for knobs, taken in (({"strength": 7.0}, 7.0), ({}, 10.0), ({"sweep": (5.0, 0.5, 2.0)}, 2.0)):
        head = LinearHead(**knobs).build(tiny("clip"), NAMES)
        assert head.solve(task(clusters(1)), seed=1) == {"strength": taken, "validation": {}}
        weight_CD, bias_C = logistic_regression(*clusters(1), 5, taken, 1000)
        torch.testing.assert_close(head.weight.detach(), weight_CD.float())
        torch.testing.assert_close(head.bias.detach(), bias_C.float())


@pytest.mark.parametrize("sweep", [(), (-1.0,), (1.0, 0.0)])
def test_strengths_are_above_0(sweep: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"knob sweep=.* of 'linear_head' must be one strength or more, each above 0"):
        LinearHead(sweep=sweep)


def test_learns_what_is_separable() -> None:
    model = tiny("clip")
    head = LinearHead().build(model, NAMES)
    head.solve(task(clusters(1, noise=0.2), clusters(2, noise=0.2)), seed=1)
    features_ND, labels_N = clusters(3, noise=0.2)
    assert (logits(model, head, features_ND, NAMES).argmax(1) == labels_N).all()


def test_its_rows_are_its_logits() -> None:
    model, (features_ND, labels_N) = tiny("clip"), clusters(1)
    head = LinearHead(strength=1.0).build(model, NAMES)
    head.solve(task((features_ND, labels_N)), seed=1)
    f = Features(model, head, frozenset(), ["d", "b"], ())
    weight_CD, bias_C = head.rows(f)
    found = logits(model, head, 3 * features_ND, ["d", "b"])  # lengths do not matter
    torch.testing.assert_close(found, (features_ND @ weight_CD.T + bias_C).detach())
    torch.testing.assert_close(found, logits(model, head, features_ND, NAMES)[:, [3, 1]])
    assert Image() not in f.raw


def test_knows_no_names() -> None:
    model = tiny("clip")
    probe = get_method("linear-probe")
    probe.attach(model, ["cat", "dog"])
    with pytest.raises(NoHead, match=r"cannot name new classes: 1 of 2 were not trained on \(owl\)"):
        Scorer(model, probe, ["cat", "owl"], ["a photo of a {}."])
    assert Scorer(model, probe, ["dog"], ["{}"]).names == ("dog",)  # a part of what it was trained on is fine
