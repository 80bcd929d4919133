"""The linear probe against scikit-learn, and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from steadyclip.methods import NoHead, get_method
from steadyclip.methods.linear_probe import LinearProbe, logistic_regression
from steadyclip.models.testing import tiny


def _clusters(seed: int, noise: float = 0.7, per_class: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers_CD = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(5).repeat(per_class)
    features_ND = centers_CD[labels_N] + noise * torch.randn(len(labels_N), 24, generator=generator)
    return F.normalize(features_ND, dim=-1), labels_N


@pytest.mark.parametrize("strength", [0.1, 3.16, 100.0])
def test_agrees_with_scikit_learn(strength: float) -> None:
    features_ND, labels_N = _clusters(1)
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
    train, val = _clusters(1, noise=1.2, per_class=6), _clusters(2, noise=1.2)
    model = tiny("clip")
    probe = LinearProbe()
    probe.adapt(model, list("abcde"))
    chosen = probe.solve(model, train, val, seed=1)
    accuracy = {}
    for strength in probe.sweep:
        oracle = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(train[0].numpy(), train[1].numpy())
        accuracy[strength] = oracle.score(val[0].numpy(), val[1].numpy())
    assert accuracy[chosen["strength"]] == max(accuracy.values())
    assert len(set(accuracy.values())) > 1  # else the test could not fail


def test_learns_what_is_separable() -> None:
    model = tiny("clip")
    probe = LinearProbe()
    probe.adapt(model, list("abcde"))
    probe.solve(model, _clusters(1, noise=0.2), _clusters(2, noise=0.2), seed=1)
    features_ND, labels_N = _clusters(3, noise=0.2)
    assert (probe.head(model, list("abcde"), ()).logits(features_ND).argmax(1) == labels_N).all()


def test_knows_no_names() -> None:
    model = tiny("clip")
    probe = get_method("linear-probe")
    probe.adapt(model, ["cat", "dog"])
    with pytest.raises(NoHead, match=r"1 of 2 classes were not trained on \(owl\)"):
        probe.head(model, ["cat", "owl"], ["a photo of a {}."])
    assert probe.head(model, ["dog"], []).classes == ("dog",)  # a part of what it was trained on is fine
