"""Temperature and threshold: against torch's optimizer and by hand; what they belong to; what is too little."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.core.errors import DataError, UsageError
from steadyclip.deploy import calibrate
from steadyclip.deploy.calibration import choose, cut_for_precision, cut_to_keep, fit_temperature, wilson
from steadyclip.training import load_run


def made(seed: int = 0, factor: float = 1.0, images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and the logits factor * z."""
    rng = np.random.default_rng(seed)
    z_NC = rng.normal(0, 2, (images, 6))
    p_NC = np.exp(z_NC) / np.exp(z_NC).sum(1, keepdims=True)
    labels_N = np.array([rng.choice(6, p=p) for p in p_NC])
    return (factor * z_NC).astype(np.float32), labels_N


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_the_temperature_is_that_of_an_optimizer(factor: float) -> None:
    logits_NC, labels_N = made(factor=factor)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(torch.from_numpy(logits_NC).double() / log_t.exp(), torch.from_numpy(labels_N))
        loss.backward()
        return loss

    optimizer.step(closure)
    found = fit_temperature(logits_NC, labels_N)
    assert found == pytest.approx(log_t.exp().item(), rel=1e-4)
    assert found == pytest.approx(factor, rel=0.25)  # the labels were drawn at 1


def test_limits_of_the_temperature() -> None:
    logits_NC = np.eye(3, dtype=np.float32)
    assert fit_temperature(logits_NC, np.array([0, 1, 2])) == 0.01  # all right: the surer the better
    assert fit_temperature(logits_NC, np.array([1, 2, 0])) == 100  # all wrong


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30),
       st.sampled_from([0.5, 0.8, 1.0]))  # fmt: skip
def test_the_cut_is_the_smallest_that_holds(rows: list[tuple[float, bool]], precision: float) -> None:
    score_N, correct_N = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    holds = [s for s in sorted(set(score_N)) if correct_N[score_N >= s].mean() >= precision]
    cut = cut_for_precision(score_N, correct_N, precision)
    assert (cut is None) == (not holds)
    if cut is not None:
        assert (score_N >= cut).tolist() == (score_N >= holds[0]).tolist()
    kept = cut_to_keep(score_N, precision)
    assert (score_N >= kept).mean() >= precision
    assert all((score_N >= s).mean() < precision for s in score_N if s > score_N[score_N >= kept].min())


def test_the_interval_is_that_of_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # R: binom.confint(8, 10, method="wilson")
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_it_lowers_the_calibration_error_and_keeps_what_was_asked() -> None:
    logits_NC, labels_N = made(factor=3)
    found = choose(logits_NC, labels_N, "id", precision=0.8)
    assert found.ece_calibrated < found.ece / 2
    assert found.threshold is not None
    assert found.threshold.precision >= 0.8
    assert found == choose(logits_NC, labels_N, "id", precision=0.8) or found.created
    none = choose(logits_NC, (logits_NC.argmax(1) + 1) % 6, "id")
    assert none.threshold is None
    assert "no threshold" in none.lines()[1]


@pytest.mark.newest  # the share that is kept is of a tiny model, whose first weights other versions draw otherwise
def test_a_run_keeps_it_and_others_do_not_take_it(run_of, data, photos: Path, capsys, tmp_path: Path) -> None:
    folder = run_of("lora[steps=5,learning_rate=0.05]")
    words = ["calibrate", str(folder), "--data", str(photos), "--keep", "0.8"]
    assert main(words) == 0
    assert "of the answers are right" in capsys.readouterr().out
    predictor = sc.Predictor(folder)
    assert predictor.temperature == json.loads((folder / "calibration.json").read_text())["temperature"] != 1
    assert 0.8 <= np.mean([predictor(photos / key).sure for key in data.splits["val"].keys]) <= 0.9
    other = predictor.with_names(["day", "night"])
    assert (other.temperature, other.threshold) == (1, None)
    assert "are not used" in capsys.readouterr().err
    other_run = run_of()
    (other_run / "calibration.json").write_bytes((folder / "calibration.json").read_bytes())
    assert sc.Predictor(other_run).threshold is None  # it is of another run
    (other_run / "calibration.json").unlink()


def test_what_is_too_little(run_of, data, photos: Path, capsys) -> None:
    model, method, run = load_run(run_of())
    with pytest.raises(DataError, match="6 validation images, 1 in the smallest class: at least 100 in all, or 5 in"):
        calibrate(model, method, run, data.splits["val"].subset([0, 1, 5, 6, 10, 15]))
    with pytest.raises(UsageError, match="not both"):
        calibrate(model, method, run, data.splits["val"], precision=0.5, keep=0.5)
    assert main(["calibrate", str(run_of()), "--data", str(photos), "--keep", "95"]) == 2
    assert "--keep must be above 0 and at most 1, not 95" in capsys.readouterr().err
