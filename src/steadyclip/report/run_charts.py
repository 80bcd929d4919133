"""The charts of a single run that need its folder: how it learned, and whether it is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steadyclip.evaluation.answers import Answers
from steadyclip.experiments.before_after import FROZEN
from steadyclip.report.charts import COLORS, drawn
from steadyclip.report.classes import find_answers
from steadyclip.report.verdict import Verdict
from steadyclip.training.run import read_log

_BINS = 10
_DASHES: Any = {"color": COLORS["quiet"], "linestyle": (0, (3, 2)), "linewidth": 1, "zorder": 1}


def charts_of_run(folder: Path | None, found: Verdict | None) -> dict[str, dict[str, str]]:
    """``learning`` and ``reliability``, each with a title and an ``<svg>``, of the run in ``folder``; empty where the
    folder does not say."""
    learned: dict[str, str] = {}
    sure: dict[str, str] = {}
    if folder is not None and found is not None:
        rows = read_log(folder)
        curves = {"Loss": loss(rows), "Validation images": validation(rows)}
        learned = {name: svg for name, svg in curves.items() if svg}
        for before, after in found.own.pairs:
            answers = find_answers([folder], after)
            if answers:
                frozen = find_answers([folder], before, FROZEN)
                sure[f"{after.data.name}, {after.data.subset}"] = reliability(answers, frozen)
    return {"learning": learned, "reliability": sure}


def loss(rows: Sequence[Mapping[str, Any]]) -> str:
    """The loss over steps, a point for each line of the log; "" where there are fewer than two."""
    return _over_steps([(row["step"], row["loss"]) for row in rows], "loss", "training loss")


def validation(rows: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy on validation images over steps, where it was measured at least twice."""
    points = [(row["step"], 100 * row["validation_top1"]) for row in rows if "validation_top1" in row]
    return _over_steps(points, "top-1 accuracy, %", "validation accuracy")


def _over_steps(points: Sequence[tuple[int, float]], unit: str, name: str) -> str:
    if len(points) < 2:
        return ""
    with drawn(f"{name.capitalize()} over steps", 2.2) as chart:
        (axes,) = chart.axes
        style: Any = {"marker": ".", "markersize": 4, "linewidth": 1.3}
        (chart.legend[name],) = axes.plot(*zip(*points, strict=True), color=COLORS["c1"], **style)
        axes.set(xlabel="step", ylabel=unit)
    return chart.svg


def reliability(run: Answers, frozen: Answers | None = None) -> str:
    """How often answers are right against how sure the model was, in ten bins; larger where there are more images."""
    with drawn("Share of right answers against how sure the model was", 2.9) as chart:
        (axes,) = chart.axes
        (chart.legend["as sure as right"],) = axes.plot([0, 100], [0, 100], **_DASHES)
        for name, answers, color in (("frozen model", frozen, "c2"), ("this run", run, "c1")):
            if answers is not None:
                sure, right, images = bins(answers)
                axes.plot(sure, right, color=COLORS[color], linewidth=1.1)
                sizes = 12 + 90 * images / images.max()
                chart.legend[name] = axes.scatter(sure, right, s=sizes, color=COLORS[color], linewidths=0, zorder=3)
        axes.set(xlabel="how sure, %", ylabel="right, %", xlim=(0, 100), ylim=(0, 103))
    return chart.svg


def bins(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the B bins of equal width that hold an image: mean score and share of right answers, in percent, and how many
    images; each (B,)."""
    score_N, right_N = np.array(answers.score), np.array(answers.correct)
    bin_N = np.minimum((score_N * _BINS).astype(int), _BINS - 1)
    used = np.unique(bin_N)
    sure, right = ([100 * values_N[bin_N == each].mean() for each in used] for values_N in (score_N, right_N))
    return np.array(sure), np.array(right), np.bincount(bin_N)[used]
