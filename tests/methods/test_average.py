"""Running averages against the weighted means that they stand for."""

import math

import pytest
import torch

from method_world import NAMES, TEMPLATES, attached, make_batch
from steadyclip.adapters import LowRank
from steadyclip.core.errors import UsageError
from steadyclip.methods import Average, compose, get_method
from steadyclip.objectives import CrossEntropy, Distance, Image
from steadyclip.training.step import RunningAverage, Step


def weights(average: Average, T: int) -> list[float]:
    """What each of the T + 1 points weighs in the end: those after event t are scaled by 1 - rate."""
    found = []
    for rate in average.rates(T):
        found = [(1 - rate) * weight for weight in found] + [rate]
    return found


def test_uniform_is_the_mean_of_all_points() -> None:
    assert weights(Average("uniform"), 9) == pytest.approx([0.1] * 10)


def test_gaussian_of_the_published_settings() -> None:
    """PromptSRC: 20 epochs, mean 15, width 1; the start has no weight."""
    found = weights(Average("gaussian", "epoch", mean=15, std=1), 20)
    assert sum(found) == pytest.approx(1)
    assert found[0] == 0
    assert [round(found[epoch], 3) for epoch in (14, 15, 16)] == [0.242, 0.399, 0.242]
    total = sum(math.exp(-((t - 15) ** 2) / 2) for t in range(1, 21))
    assert found[1:] == pytest.approx([math.exp(-((t - 15) ** 2) / 2) / total for t in range(1, 21)])


@pytest.mark.parametrize(("mean", "nearest"), [(60, 20), (-60, 1)])
def test_a_gaussian_far_away_is_the_nearest_epoch(mean: float, nearest: int) -> None:
    """Not the start, though every weight is below the smallest number."""
    found = weights(Average("gaussian", "epoch", mean=mean, std=1), 20)
    assert found == pytest.approx([float(epoch == nearest) for epoch in range(21)])


def test_beta_of_one_is_uniform_and_of_a_half_weighs_the_ends() -> None:
    assert weights(Average("beta", b=1.0), 9) == pytest.approx([0.1] * 10)
    found = weights(Average("beta", b=0.5), 9)
    assert found == pytest.approx(found[::-1])
    assert found[0] > found[1] > found[4]
    density = [1 / math.sqrt(u * (1 - u)) for u in ((t + 0.5) / 10 for t in range(10))]
    assert found == pytest.approx([d / sum(density) for d in density])


def test_ema_keeps_its_share() -> None:
    rates = Average("ema", decay=0.9).rates(4)
    assert rates == pytest.approx([0.1] * 5)
    average, points = 0.0, [1.0, 2.0, 3.0, 4.0]
    for rate, point in zip(rates[1:], points, strict=True):
        average += rate * (point - average)
    assert average == pytest.approx(sum(0.1 * 0.9 ** (3 - t) * point for t, point in enumerate(points)))


@pytest.mark.parametrize(
    "average", [Average("uniform"), Average("ema", decay=0.7), Average("beta")], ids=lambda a: a.kind
)
def test_a_training_ends_at_the_mean_of_its_points(average: Average) -> None:
    method = compose("averaged", adapters=(LowRank(dropout=0.0),), average=average)
    model = attached(method)
    step = Step(method, model, NAMES, TEMPLATES)
    running, points = RunningAverage(method, step, 3, 1), [{n: p.detach().clone() for n, p in step.trained.items()}]
    assert running is not None
    optimizer = torch.optim.SGD(step.trained.values(), lr=0.1)
    for number in range(3):
        optimizer.zero_grad()
        step.gradients(make_batch(seed=number), seed=number)
        optimizer.step()
        running.update(number + 1)
        points.append({n: p.detach().clone() for n, p in step.trained.items()})
    running.finish()
    shares = weights(average, 3)
    shares[0] = 1 - sum(shares[1:])  # the average starts at the start
    for name, parameter in step.trained.items():
        expected = sum(share * point[name] for share, point in zip(shares, points, strict=True))
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_average_model_is_read_without_dropout() -> None:
    terms = CrossEntropy() + Distance(Image(), Image(state="average"), "cosine")
    rows = []
    for dropout in (0.0, 0.5):
        adapters = (LowRank(dropout=dropout),)
        method = compose("dropout", average=Average(final=False), adapters=adapters, objective=terms)
        model = attached(method, std=0.2)
        model.adapters.train()
        step = Step(method, model, NAMES, TEMPLATES)
        RunningAverage(method, step, 3, 1)
        f = step.planner.features(NAMES, TEMPLATES, make_batch())
        step.planner.fill(f, [read for read in step.reads if read.state != "frozen"])
        rows.append({read.state: rows for read, rows in f.raw.items() if read.tower == "image"})
        assert all(module.training for module in model.adapters.modules())
    assert torch.equal(rows[0]["average"], rows[1]["average"])
    assert not torch.equal(rows[0]["tuned"], rows[1]["tuned"])


def test_a_term_can_read_the_average_model() -> None:
    average = Average("ema", final=False)
    terms = CrossEntropy() + Distance(Image(), Image(state="average"), "cosine")
    method = compose("held to its average", average=average, adapters=(LowRank(),), objective=terms)
    model = attached(method, std=0.2)
    step = Step(method, model, NAMES, TEMPLATES)
    RunningAverage(method, step, 3, 1)
    assert float(step.gradients(make_batch(), seed=0)["cosine_image"]) == pytest.approx(0, abs=1e-2)
    for value in step.planner.average.values():
        value.zero_()  # the frozen model
    model.eval()
    found = float(step.gradients(make_batch(), seed=0)["cosine_image"])
    with torch.no_grad():
        images = make_batch().images_BCHW
        tuned = model.encode_image(images)
        with model.frozen():
            frozen = model.encode_image(images)
    assert found == pytest.approx(float(1 - (tuned * frozen).sum(1).mean()), rel=1e-4)
    with pytest.raises(UsageError, match="a term reads the average model, but no average is set"):
        compose("no average", objective=terms)


def test_knobs() -> None:
    assert get_method("compose", {"average": "Average(kind='uniform')"}).average == Average("uniform")
    for wrong in ({"decay": 1.0}, {"std": 0.0}, {"b": 0.0}):
        with pytest.raises(UsageError, match=f"knob {next(iter(wrong))}="):
            Average(**wrong)
