from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from steadyclip.evaluation.records import Record
from steadyclip.report import charts, main_table
from steadyclip.report.charts import bars


def texts_of(svg: str) -> list[str]:
    nodes = (node for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text"))
    return ["".join(node.itertext()).strip() for node in nodes]


def test_bars_show_the_changes_of_the_table(experiment: list[Record]) -> None:
    (section,) = main_table(experiment).sections
    texts = texts_of(bars(section, {}))
    changes = [cell.change for row in section.rows[1:] for cell in row.cells[:2] if cell.change]
    assert len(changes) == 5
    for text in ("linear-probe", "full", "lora", *changes, "no score", "base, from 54.1", "new, from 57.3"):
        assert text in texts
    assert "change of top-1 accuracy against zero-shot, points" in texts
    assert "zero-shot" not in texts


def test_without_a_baseline_there_are_levels(experiment: list[Record]) -> None:
    (section,) = main_table([record for record in experiment if record.training]).sections
    texts = texts_of(bars(section, {}))
    for text in ("full", "lora", "74.4", "49.2", "base", "new", "top-1 accuracy, %"):
        assert text in texts


def test_long_names_are_cut_as_long_as_they_stay_different(make: Callable[..., Record]) -> None:
    labels = [
        "lora[rank=4,layers=q:v,epochs=5]",
        "orthcr[l1=2,learning_rate=0.001]",
        "orthcr[l1=3,learning_rate=0.001]",
    ]
    records = [make("zero-shot", half, 0.5, data_hash=half) for half in ("base", "new")]
    records += [make(label, half, 0.6, seed=1, data_hash=half) for label in labels for half in ("base", "new")]
    texts = texts_of(bars(main_table(records).sections[0], {}))
    assert any(text.startswith("lora") and text.endswith("\N{HORIZONTAL ELLIPSIS}") for text in texts)
    assert sum("l1=2" in text for text in texts) == 1


def _luminance(color: str) -> float:
    levels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [level / 12.92 if level <= 0.03928 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_color_can_be_read_on_paper_and_cards() -> None:
    """WCAG AA, in light, dark and print: a contrast of 4.5."""
    css = (Path(charts.__file__).parent / "templates" / "colors.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", scheme))
        colors = {
            name: f"#{''.join(2 * c for c in color[1:])}" if len(color) == 4 else color
            for name, color in colors.items()
        }
        for name in colors.keys() - {"paper", "card", "line"}:
            for ground in ("paper", "card"):
                high, low = sorted((_luminance(colors[name]), _luminance(colors[ground])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_colors_come_from_the_page(experiment: list[Record]) -> None:
    svg = bars(main_table(experiment).sections[0], {})
    for name in ("base", "new", "ink", "quiet"):
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
