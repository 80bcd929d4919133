from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

from steadyclip.evaluation.records import Record
from steadyclip.report import main_table
from steadyclip.report.charts import bars


def test_bars_show_what_the_table_shows(experiment: list[Record]) -> None:
    (section,) = main_table(experiment).sections
    svg = bars(section, {})
    texts = [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]
    for text in (
        "zero-shot",
        "linear-probe",
        "full",
        "lora",
        "54.1",
        "57.3",
        "74.4",
        "49.2",
        "no score",
        "base",
        "new",
    ):
        assert text in texts


def test_colors_come_from_the_page(experiment: list[Record]) -> None:
    svg = bars(main_table(experiment).sections[0], {})
    for name in ("base", "new", "ink", "quiet", "paper"):
        assert f"var(--{name})" in svg
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {"#000000"}


def test_the_same_twice_and_no_date(experiment: list[Record]) -> None:
    section = main_table(experiment).sections[0]
    assert bars(section, {}) == bars(section, {})
    assert "metadata" not in bars(section, {})


def test_names_that_are_markup(make: Callable[..., Record]) -> None:
    label = '<script>&$x$ "q"'
    records = [make(label, half, 0.5, seed=1, name=label) for half in ("base", "new")]
    svg = bars(main_table(records).sections[0], {})
    assert "<script>" not in svg
    assert label in "".join(ElementTree.fromstring(svg).itertext())
