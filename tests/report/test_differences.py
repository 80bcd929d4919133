"""Paired differences in tables: which are shown, and that they are those of the records."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from msgspec import structs

from steadyclip.evaluation.paired import Bootstrap
from steadyclip.evaluation.records import Record
from steadyclip.report import charts, main_table, results, write_charts
from steadyclip.report.reading import reading

Make = Callable[..., Record]
IMAGES = {"base": 300, "new": 200}


def answers(data: str, half: str, method: str, seed: int, share: float) -> np.ndarray:
    """Right where the method's share of all images says so, and now and then not."""
    noise = np.random.default_rng([ord(data), len(half), seed, len(method)]).random(IMAGES[half]) < 0.1
    return (np.random.default_rng([ord(data), len(half)]).random(IMAGES[half]) < share) ^ noise


def grid(make: Make, shares: dict[str, tuple[float, float]], sets: str = "ab") -> list[Record]:
    return [
        make(method, half, seed=seed, shots=None if seed is None else 16, name=data, data_hash=f"{data}{half}",
             correct=answers(data, half, method, seed or 0, share))
        for data in sets
        for method, of in shares.items()
        for seed in ((None,) if method == "zero-shot" else (1, 2, 3))
        for half, share in zip(IMAGES, of, strict=True)
    ]  # fmt: skip


SHARES = {"zero-shot": (0.5, 0.6), "full": (0.8, 0.5), "lora": (0.7, 0.6), "dra": (0.7, 0.61)}


def test_all_rows_are_compared_with_clip_lora_as_its_authors_scale_it(make: Make) -> None:
    row = "lora[alpha=1.414]"
    shares = {row if method == "lora" else method: share for method, share in SHARES.items()}
    (found,) = (s for s in main_table(grid(make, shares)).differences if s.title.endswith(f"difference to {row}"))
    assert {other.label for other in found.rows} == {"zero-shot", "full", "dra"}


def test_the_chart_of_gain_and_cost_shows_the_differences(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = main_table(grid(make, SHARES))
    drawn: list[tuple[float, ...]] = []
    real = Axes.errorbar

    def errorbar(axes: Axes, x: float, y: float, **options) -> object:
        if "yerr" in options:
            drawn.append((x, y, *(float(end[0]) for name in ("xerr", "yerr") for end in options[name])))
        return real(axes, x, y, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    looks = charts.styles(SHARES)
    svg = charts.exchange(table.differences[0], looks)
    for row, (x, y, left, right, below, above) in zip(table.differences[0].rows, drawn, strict=True):
        base, new = row.cells[:2]
        assert (x, y) == (new.value, base.value)
        assert (x - left, x + right, y - below, y + above) == pytest.approx((new.low, new.high, base.low, base.high))
        assert f">{row.label}<" in svg
    assert not charts.exchange(table.differences[1], looks)
    assert not charts.exchange(table.sections[0], looks)
    (file,) = (file for file in write_charts(table, tmp_path / "charts") if file.name.startswith("exchange"))
    alone = file.read_text()
    assert "--base: #3f6fa8" in alone
    assert "prefers-color-scheme: dark" in alone
    assert xml.etree.ElementTree.fromstring(alone).tag.endswith("svg")


def test_each_row_is_compared_with_the_three_references(make: Make) -> None:
    records = grid(make, SHARES)
    table = main_table(records)
    titles = [section.title for section in table.differences]
    assert titles == [f"average, base to new: difference to {name}" for name in ("zero-shot", "full", "lora")]
    assert [[row.label for row in section.rows] for section in table.differences] == [
        ["full", "lora", "dra"], ["zero-shot", "lora", "dra"], ["zero-shot", "full", "dra"],
    ]  # fmt: skip
    (average,) = (section for section in table.sections if section.title.startswith("average"))
    means = {row.label: [cell.value or 0 for cell in row.cells[:3]] for row in average.rows}
    for section, name in zip(table.differences, ("zero-shot", "full", "lora"), strict=True):
        for row in section.rows:
            got = [cell.value for cell in row.cells]
            assert got == pytest.approx([a - b for a, b in zip(means[row.label], means[name], strict=True)])
            assert all(cell.low <= cell.value <= cell.high for cell in row.cells)
    full = table.differences[0].rows[0]
    assert [cell.trend for cell in full.cells[:2]] == ["up", "down"]


@pytest.mark.parametrize("kept", [(3,), (2, 3)])
def test_methods_are_compared_on_the_seeds_that_both_have(make: Make, kept: tuple[int, ...]) -> None:
    records = grid(make, SHARES)

    def to_full(records: list[Record]) -> list[tuple[float | None, ...]]:
        (section,) = (s for s in main_table(records).differences if s.title.endswith("difference to full"))
        (dra,) = (row for row in section.rows if row.label == "dra")
        return [(cell.value, cell.low, cell.high) for cell in dra.cells]

    def without(*methods: str) -> list[Record]:
        return [r for r in records if r.method.label not in methods or r.seed in kept]

    fewer = without("dra")
    assert to_full(fewer) == to_full(without("dra", "full"))
    assert to_full(sorted(fewer, key=lambda r: -(r.seed or 0))) == to_full(fewer)
    assert to_full(fewer) != to_full(records)


WHERE = (("home", "plain", "id"), ("home", "night", "ood"), ("home", "wild", "ood"), ("a", "all", "transfer"),
         ("b", "all", "transfer"))  # fmt: skip


def of_transfer(make: Make) -> list[Record]:
    return [
        make(method, "all", seed=seed, shots=None, name=name, domain=domain, role=role, source="home",
             data_hash=f"{name}{domain}", correct=answers(domain[0], "base", method, seed or 0, share))
        for method, share, seeds in (("zero-shot", 0.5, (None,)), ("flyp", 0.4, (1, 2)), ("arf", 0.6, (1, 2)))
        for seed in seeds
        for name, domain, role in WHERE
    ]  # fmt: skip


def test_transfer_is_compared_in_distribution_and_by_its_means(make: Make) -> None:
    table = main_table(of_transfer(make))
    (section,) = table.sections
    assert section.paired
    title = "home to other domains and other data: difference to"
    assert [one.title for one in table.differences] == [f"{title} zero-shot", f"{title} flyp"]
    to_flyp = table.differences[1]
    assert to_flyp.columns == ("plain", "mean of domains", "mean of data")
    arf = next(row for row in to_flyp.rows if row.label == "arf")
    ours, theirs = (next(row for row in section.rows if row.label == name) for name in ("arf", "flyp"))
    for name, cell in zip(to_flyp.columns, arf.cells, strict=True):
        i = section.columns.index(name)
        assert cell.value == pytest.approx((ours.cells[i].value or 0) - (theirs.cells[i].value or 0))
    groups = [np.arange(IMAGES["base"])]
    bootstrap = Bootstrap({"night": groups, "wild": groups})
    drawn = [
        bootstrap.scores({
            domain: [np.stack([answers(domain[0], "base", method, seed, share) for seed in (1, 2)])]
            for domain in ("night", "wild")
        })
        for method, share in (("arf", 0.6), ("flyp", 0.4))
    ]  # fmt: skip
    found = drawn[0].minus(drawn[1], 0)
    assert (arf.cells[1].low, arf.cells[1].high) == pytest.approx((found.low, found.high))
    assert arf.cells[1].trend == "up"


def test_curves_of_several_data_sets_have_a_mean_that_is_compared(make: Make) -> None:
    records = [
        make(method, "all", seed=seed, shots=shots, name=data, role="id", source=data, data_hash=data,
             correct=answers(data, "base", method, seed or 0, share + 0.01 * (shots or 0)))
        for data in "ab"
        for method, share in (("zero-shot", 0.5), ("full", 0.6), ("lora", 0.2))
        for seed in ((None,) if method == "zero-shot" else (1, 2))
        for shots in ((None,) if method == "zero-shot" else (1, 4))
    ]  # fmt: skip
    table = main_table(records)
    assert [section.title for section in table.sections] == ["a, few-shot", "b, few-shot", "average, few-shot"]
    *each, average = table.sections
    assert average.average
    assert average.columns == ("1 shot", "4 shots")
    for row in average.rows:
        for i, cell in enumerate(row.cells):
            of_data = [one.cells[i].value or 0 for section in each for one in section.rows if one.label == row.label]
            assert cell.value == pytest.approx(sum(of_data) / 2)
            assert (cell.spread is None) == (row.label == "zero-shot")
    titles = [f"average, few-shot: difference to {name}" for name in ("zero-shot", "full", "lora")]
    assert [section.title for section in table.differences] == titles
    assert [row.cells[1].trend for row in table.differences[0].rows] == ["up", "down"]


def test_a_method_is_compared_with_variants_of_it(make: Make) -> None:
    shares = SHARES | {"dra[l1=off]": (0.6, 0.5), "draft": (0.6, 0.5), "orthcr[cut=off]": (0.6, 0.5)}
    section = main_table(grid(make, shares)).differences[-1]
    assert section.title == "average, base to new: difference to dra"
    (row,) = section.rows
    assert row.label == "dra[l1=off]"
    own, other = (
        [cell.value for cell in row.cells] for row in main_table(grid(make, shares)).sections[-1].rows
        if row.label in ("dra", "dra[l1=off]")
    )  # fmt: skip
    assert [cell.value for cell in row.cells] == pytest.approx([b - a for a, b in zip(own, other, strict=True)][:3])


def test_the_interval_is_that_of_the_bootstrap(make: Make) -> None:
    (section, *_) = main_table(grid(make, SHARES)).differences
    correct = {
        method: {
            data: [np.stack([answers(data, half, method, seed, share) for seed in seeds])
                   for half, share in zip(IMAGES, SHARES[method], strict=True)]
            for data in "ab"
        }
        for method, seeds in (("zero-shot", (0,)), ("dra", (1, 2, 3)))
    }  # fmt: skip
    bootstrap = Bootstrap({data: [np.arange(n) for n in IMAGES.values()] for data in "ab"})
    found = bootstrap.scores(correct["dra"]).minus(bootstrap.scores(correct["zero-shot"]))
    cell = section.rows[-1].cells[2]
    assert (cell.value, cell.low, cell.high) == pytest.approx((found.mean, found.low, found.high))


def test_images_of_a_group_are_drawn_together(make: Make) -> None:
    alone = grid(make, SHARES, "a")
    half = {name: " ".join(str(i // 10) for i in range(n)) for name, n in IMAGES.items()}
    together = [structs.replace(r, groups=half[r.data.subset or ""]) for r in alone]
    images, groups = (main_table(records).differences[0].rows[0].cells[0] for records in (alone, together))
    assert images.value == groups.value
    assert (images.low, images.high) != (groups.low, groups.high)
    bootstrap = Bootstrap({"a": [np.arange(n) // 10 for n in IMAGES.values()]})
    correct = {
        method: {"a": [np.stack([answers("a", half, method, seed, share) for seed in seeds])
                       for half, share in zip(IMAGES, SHARES[method], strict=True)]}
        for method, seeds in (("zero-shot", (0,)), ("full", (1, 2, 3)))
    }  # fmt: skip
    found = bootstrap.scores(correct["full"]).minus(bootstrap.scores(correct["zero-shot"]), 0)
    assert (groups.low, groups.high) == pytest.approx((found.low, found.high))


def test_they_stand_in_every_form_of_the_table(make: Make) -> None:
    table = main_table(grid(make, SHARES, "a"))
    assert table.differences[0].title == "a, base to new: difference to zero-shot"
    cell = table.differences[0].rows[0].cells[0]
    assert cell.text == f"+{cell.value:.1f} [+{cell.low:.1f}, +{cell.high:.1f}]"
    assert f"| {cell.text.replace('[', chr(92) + '[')}" in table.markdown() or cell.text in table.markdown()
    assert cell.text in table.html()
    (line,) = (
        row for row in csv.DictReader(io.StringIO(table.csv()))
        if row["table"].endswith("difference to zero-shot") and (row["method"], row["column"]) == ("full", "base")
    )  # fmt: skip
    assert [float(line[name]) for name in ("mean", "low", "high")] == pytest.approx(
        [cell.value, cell.low, cell.high], abs=1e-4
    )


def test_other_images_are_not_compared(make: Make) -> None:
    records = grid(make, SHARES, "a")
    others = [r for r in records if r.method.name != "dra"]
    changed = [
        make("dra", r.data.subset, seed=r.seed, shots=16, name="a", data_hash="other", correct=np.ones(9))
        for r in grid(make, {"dra": (0.7, 0.6)}, "a")
    ]
    (section, *_) = main_table([*others, *changed]).differences
    assert section.rows[-1].cells[0].reason == "not scored on the same test images as zero-shot."
    # records of before say nothing about single images
    assert main_table([make(seed=None), make(subset="new", seed=None)]).differences == ()


def test_a_change_is_clear_when_its_paired_interval_is(make: Make) -> None:
    """Also where it is smaller than the interval of the baseline alone."""
    records = grid(make, {"zero-shot": (0.5, 0.5), "lora": (0.52, 0.5)}, "a")
    (section,) = main_table(records).sections
    lora = section.rows[1].cells
    (apart,) = main_table(records).differences[:1]
    assert section.paired
    assert [cell.trend for cell in lora] == [cell.trend for cell in apart.rows[0].cells]
    plain = main_table([structs.replace(record, correct="") for record in records]).sections[0]
    assert not plain.paired


def test_the_page_says_what_clear_means(make: Make) -> None:
    table = main_table(grid(make, {"zero-shot": (0.5, 0.6), "lora": (0.5, 0.6)}, "a"))
    text = reading(table)
    assert ("its paired 95 % interval does not hold 0" in text) == any(
        cell.trend == "same" for cell in table.sections[0].rows[1].cells
    )


def test_the_differences_as_lines(make: Make) -> None:
    table = main_table(grid(make, SHARES))
    lines = list(csv.DictReader(io.StringIO(results.differences(table))))
    assert len(lines) == 3 * 3 * 3  # references, rows, columns
    cell = table.differences[1].rows[2].cells[2]
    (line,) = (x for x in lines if (x["reference"], x["method"], x["column"]) == ("full", "dra", "H"))
    assert [float(line[name]) for name in ("difference", "low", "high")] == pytest.approx(
        [cell.value, cell.low, cell.high], abs=1e-4
    )
