from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

from steadyclip.evaluation.records import Record
from steadyclip.report import main_table
from steadyclip.report.cells import Section
from steadyclip.report.charts import COLORS, Style, curves, styles

Grid = Callable[[str], list[Record]]


def texts(svg: str) -> list[str]:
    nodes = ElementTree.fromstring(svg).iter()
    return ["".join(node.itertext()).strip() for node in nodes if node.tag.endswith("text")]


def looks(section: Section) -> dict[str, Style]:
    return styles(row.series for row in section.rows if row is not section.baseline)


def test_a_line_for_each_method(grid: Grid) -> None:
    (section,) = main_table(grid("few-shot")).sections
    svg = curves(section, looks(section))
    assert {"1", "2", "4", "8", "16", *(row.label for row in section.rows)} <= set(texts(svg))
    for name in ("c1", "c9", "quiet"):
        assert f"var(--{name})" in svg
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {"#000000"}
    assert svg == curves(section, looks(section))


def test_one_seed_shows_the_interval_in_gray(make: Callable[..., Record]) -> None:
    records = [make("full", "all", 0.4 + 0.01 * k, seed=1, shots=k, role="id") for k in (1, 4)]
    (section,) = main_table(records).sections
    one = curves(section, looks(section))
    records += [make("full", "all", 0.41 + 0.01 * k, seed=2, shots=k, role="id") for k in (1, 4)]
    (section,) = main_table(records).sections
    two = curves(section, looks(section))
    whisker = "stroke: var(--quiet)"  # without a baseline nothing else is gray
    assert whisker in one
    assert whisker not in two


def test_no_curves_without_shots(grid: Grid) -> None:
    for protocol in ("base-to-new", "robust"):
        for section in main_table(grid(protocol)).sections:
            assert curves(section, looks(section)) == ""


def test_methods_look_different() -> None:
    found = styles(f"m{i}" for i in range(70))
    assert len(set(found.values())) == 70
    assert {style.color for style in found.values()} <= set(COLORS.values())
