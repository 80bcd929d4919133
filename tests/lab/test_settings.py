"""The recipes for icons-small are the best of those that benchmarks/choose_settings.py tried."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, harmonic_mean

import pytest

from steadyclip.data.suites import find_suite
from steadyclip.experiments.rows import parse_row
from steadyclip.experiments.settings import settings_for

ROOT = Path(__file__).parents[2]
TRIED = ROOT / "results" / "settings.csv"


def choosing():
    spec = importlib.util.spec_from_file_location("choose_settings", ROOT / "benchmarks" / "choose_settings.py")
    assert spec
    assert spec.loader
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def scores() -> dict[str, float]:
    """Row -> H of base and new, each the mean over the development data; base alone where there is no new."""
    found: dict[str, list[tuple[str, float, float | None]]] = defaultdict(list)
    with TRIED.open(newline="") as file:
        for line in csv.DictReader(file):
            new = float(line["new"]) if line["new"] else None
            found[line["row"]].append((line["data"], float(line["base"]), new))
    suite = find_suite("suite-dev")
    assert suite
    h = {}
    for row, lines in found.items():
        assert [data for data, *_ in lines] == list(suite.members), row
        base, new = fmean(base for _, base, _ in lines), [new for *_, new in lines if new is not None]
        h[row] = harmonic_mean((base, fmean(new))) if new else base
    return h


def tuned() -> list[str]:
    with TRIED.open(newline="") as file:
        return sorted({line["method"] for line in csv.DictReader(file)} - {"zero-shot"})


@pytest.mark.parametrize("method", tuned())
def test_the_recipe_is_the_best_of_ten(method: str) -> None:
    known, looked, settings = scores(), [], settings_for("icons-small")

    def score(_: str, row: str) -> float:
        looked.append(row)
        return known[row]

    best, own = (parse_row(row, settings) for row in (choosing().choose(method, score), method))
    assert best.recipe == own.recipe
    knobs = [{name: value for name, value in row.method.knobs().items() if name != "anchors"} for row in (best, own)]
    assert knobs[0] == knobs[1]
    assert len(set(looked)) == 10
