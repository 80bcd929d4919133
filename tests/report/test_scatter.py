from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from msgspec import structs

from steadyclip.evaluation.forgetting import forgetting, held_out
from steadyclip.evaluation.records import Record
from steadyclip.report import charts as module
from steadyclip.report import main_table
from steadyclip.report.cells import Section
from steadyclip.report.charts import Point, drift, shift

from .test_curves import looks, texts

Grid = Callable[[str], list[Record]]


@pytest.fixture
def dots(monkeypatch: pytest.MonkeyPatch) -> list[list[Point]]:
    """What is drawn: the points of each method, in order."""
    seen: list[list[Point]] = []
    real = module._scatter

    def scatter(chart, axes, baseline, origin, dots, looks) -> None:
        seen.extend(list(points) for points in dots.values())
        real(chart, axes, baseline, origin, dots, looks)

    monkeypatch.setattr(module, "_scatter", scatter)
    return seen


def only(records: list[Record]) -> Section:
    (section,) = main_table(records).sections
    return section


def test_shift_shows_the_numbers_of_the_table(grid: Grid, dots: list[list[Point]]) -> None:
    section = only(grid("domain-generalization"))
    svg = shift(section, looks(section))
    assert {row.label for row in section.rows} <= set(texts(svg))
    mean = section.columns.index("mean of domains")
    for row, points in zip(section.rows[1:], dots, strict=True):
        assert len(points) == 3
        assert statistics.fmean(x for x, _ in points) == pytest.approx(row.cells[0].value)
        assert statistics.fmean(y for _, y in points) == pytest.approx(row.cells[mean].value)


def test_a_run_without_all_domains_is_no_dot(grid: Grid, dots: list[list[Point]]) -> None:
    records = [
        r for r in grid("domain-generalization")
        if not (r.method.name == "full" and (r.seed == 2 or (r.data.domain == "emoji" and r.seed == 1)))
    ]  # fmt: skip
    section = only(records)
    shift(section, looks(section))
    place = [row.label for row in section.rows[1:]].index("full")
    assert len(dots[place]) == 1


def test_averaged_weights_are_a_curve_beside_their_training(grid: Grid) -> None:
    records = grid("domain-generalization")
    chosen = [r for r in records if r.method.name == "full" and r.seed == 1]
    curve = [
        structs.replace(
            r, wise_alpha=a, role="", method=structs.replace(r.method, label=f"full, alpha {a:g}")
        )
        for a in (1.0, 0.0, 0.5)
        for r in chosen
    ]  # fmt: skip
    section = only(records + curve)  # the roles of the grid count for what was scored outside it
    assert [row.label for row in section.rows[-3:]] == ["full, alpha 0", "full, alpha 0.5", "full, alpha 1"]
    svg = shift(section, looks(section))
    assert "weight averages" in texts(svg)
    assert not any("alpha" in text for text in texts(svg))
    assert "weight averages" not in texts(shift(only(records), looks(section)))


def test_drift_is_that_of_the_records(grid: Grid, dots: list[list[Point]]) -> None:
    for protocol in ("base-to-new", "cross-dataset", "robust"):
        dots.clear()
        records = grid(protocol)
        section = only(records)
        svg = drift(section, looks(section))
        rows = [row for row in section.rows[1:] if row.label != "linear-probe"]  # no features moved there
        assert "linear-probe" not in texts(svg)
        frozen = [r for r in records if r.training is None]
        for tower, name in enumerate(("image", "text")):
            for row, points in zip(rows, dots[tower * len(rows) :], strict=False):
                held = [r for r in row.records if held_out(r)]
                moved = [1 - getattr(r.drift, name).cka for r in held]
                assert statistics.fmean(x for x, _ in points) == pytest.approx(statistics.fmean(moved))
                lost = forgetting(held, frozen)
                assert lost is not None
                assert statistics.fmean(y for _, y in points) == pytest.approx(100 * lost)


def test_nothing_to_show(grid: Grid, make: Callable[..., Record]) -> None:
    few = only(grid("few-shot"))
    assert shift(few, looks(few)) == drift(few, looks(few)) == ""
    halves = [make("full", half, 0.5, seed=1, drift=(0.1, 0.1)) for half in ("base", "new")]
    alone = only(halves)  # nothing to compare with
    assert drift(alone, looks(alone)) == ""
    unmeasured = only([make("zero-shot", half, 0.5) for half in ("base", "new")] + [make("full", "new", 0.4, seed=1)])
    assert drift(unmeasured, looks(unmeasured)) == ""


def test_names_that_are_markup(make: Callable[..., Record]) -> None:
    label = '<script>&$x$ "q"'
    records = [make("zero-shot", half, 0.5) for half in ("base", "new")]
    records += [make(label, half, 0.4, seed=1, drift=(0.1, 0.2)) for half in ("base", "new")]
    section = only(records)
    svg = drift(section, looks(section))
    assert "<script>" not in svg
    assert label in texts(svg)
