"""Drift and forgetting against plain numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import structs

from steadyclip.core.errors import DataError
from steadyclip.evaluation.drift import linear_cka, mean_cosine, measure
from steadyclip.evaluation.forgetting import change, forgetting, held_out
from steadyclip.evaluation.records import ClassScore, DataInfo, MethodInfo, Metrics, ModelInfo, Record
from steadyclip.evaluation.scorer import Scorer
from steadyclip.methods import get_method
from steadyclip.models.testing import tiny


def cka_of_kernels(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 4 as it stands: HSIC of centered N x N kernels."""
    n = len(a)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = a @ a.T, b @ b.T

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.trace(x @ h @ y @ h))

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize(("n", "d", "e"), [(7, 3, 5), (20, 32, 32), (5, 64, 8)])
def test_cka_is_that_of_the_kernels(n: int, d: int, e: int) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, d))
    b = a[:, :1] @ rng.normal(size=(1, e)) + rng.normal(size=(n, e))
    found = linear_cka(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(cka_of_kernels(a, b), abs=1e-9)
    assert 0 < found < 1


def test_cka_knows_no_rotation_shift_or_scale() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 8))
    q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert linear_cka(torch.from_numpy(a), torch.from_numpy(3 * a @ q + 5)) == pytest.approx(1, abs=1e-9)


def test_cka_of_what_does_not_vary() -> None:
    same, varied = torch.ones(4, 3), torch.eye(4)[:, :3]
    assert linear_cka(same, same) == 1
    assert linear_cka(same, varied) == 0


def test_mean_cosine() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 9, 4))
    oracle = np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])
    assert mean_cosine(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(oracle, abs=1e-9)


def test_measure_tells_the_towers_apart() -> None:
    model = tiny("clip")
    images = torch.randn(6, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frozen = model.encode_image(images)
    method = get_method("full")
    method.attach(model, ())
    scorer = Scorer(model, method, ("red", "blue", "third"), ("a {} thing", "something {}"))
    still = measure(scorer, frozen, frozen)
    assert still.image.cosine == pytest.approx(1)
    assert still.text.cka == pytest.approx(1)
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if "text_model.encoder" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        scorer = Scorer(model, method, scorer.names, scorer.templates)  # it keeps texts of its weights
        moved = measure(scorer, model.encode_image(images), frozen)
    assert moved.image == still.image
    assert moved.text.cosine < 0.999
    assert moved.text.cka < 0.999


def record(label: str, correct: list[int], role: str = "transfer", hash_: str = "h", subset: str = "all") -> Record:
    classes = tuple(f"class {i}" for i in range(len(correct)))
    top1 = sum(correct) / (10 * len(correct))
    return Record(
        created="2026-11-20T10:00:00+00:00", versions={}, commit=None, model=ModelInfo("m", "clip", "w"),
        method=MethodInfo(label, {}, label), training=None,
        data=DataInfo("data", subset, None, classes, ("{}",), 10 * len(correct), hash_, ()), shots=None, seed=None,
        metrics=Metrics(top1, top1, 0.0, (top1, top1)), reason=None,
        per_class=tuple(ClassScore(name, 10, n) for name, n in zip(classes, correct, strict=True)), confusions=(),
        seconds=0.0, images_per_second=None, role=role,
    )  # fmt: skip


def test_the_change_against_the_frozen_model() -> None:
    assert change(record("lora", [9, 1, 5]), record("zero-shot", [6, 3, 5])) == pytest.approx(1 / 30)


def test_forgetting_is_over_held_out_sets_only() -> None:
    frozen = [record("zero-shot", [5, 5], hash_=h) for h in ("a", "b", "c")]
    trained = [
        record("lora", [4, 4], hash_="a"),  # -0.1 and -0.3 over two seeds
        record("lora", [2, 2], hash_="a"),
        record("lora", [6, 6], "", "b", "new"),  # +0.1
        record("lora", [9, 9], "id", "c"),  # was trained on
        record("lora", [0, 0], hash_="d"),  # the frozen model was not scored there
    ]
    assert [held_out(r) for r in trained] == [True, True, True, False, True]
    assert forgetting(trained, frozen) == pytest.approx((-0.2 + 0.1) / 2)
    assert forgetting(trained[3:], frozen) is None


def test_other_images_are_not_compared() -> None:
    frozen = record("zero-shot", [1, 1], hash_="other")
    with pytest.raises(DataError, match="not scored on the same images"):
        change(record("lora", [1, 1]), frozen)
    linear = structs.replace(record("linear-probe", [0, 0]), metrics=None, reason="knows no names")
    assert change(linear, record("zero-shot", [1, 1])) is None
