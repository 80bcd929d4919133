"""What README and docs print are the numbers of ``results/*.csv``.

A table below ``<!-- results/FILE.csv NAME -->`` has the columns base, new and H of the data set NAME, or of
the average where several are named, with commas. All of it is computed here from the lines of the file.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, harmonic_mean, stdev

import pytest

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- (results/\S+\.csv) (\S+) -->\n\n(.*?)\n\n", re.DOTALL)
TABLES = [
    pytest.param(file, *found, id=f"{file.stem}-{found[1]}")
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for found in MARK.findall(file.read_text(encoding="utf-8"))
]


def test_the_first_screen_has_a_table_that_is_checked() -> None:
    assert any(case.values[0] == ROOT / "README.md" for case in TABLES)


@pytest.mark.parametrize(("file", "source", "names", "table"), TABLES)
def test_a_printed_table_is_that_of_the_results(file: Path, source: str, names: str, table: str) -> None:
    scores = read(ROOT / source, names.split(","))
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert head[-3:] == ["base", "new", "H"]
    assert rows
    origin = means(scores["zero-shot"])
    for label, *cells in rows:
        of_seeds = scores[label]
        spread = [f" ± {stdev(values):.1f}" if len(values) > 1 else "" for values in zip(*of_seeds, strict=True)] + [""]
        for cell, mean, around, zero in zip(cells, means(of_seeds), spread, origin, strict=True):
            change = "" if label == "zero-shot" else f" ({mean - zero:+.1f})".replace("-", "\N{MINUS SIGN}")
            assert cell.replace("**", "") == f"{mean:.1f}{around}{change}", f"{file.name}, {label}"


def read(path: Path, names: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Method -> base and new in percent for each seed, mean over the data sets ``names``."""
    found: dict[str, dict[tuple[str, str], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            name, half, *_ = [*line["test"].split(), ""]
            if name in names and half in ("base", "new") and line["classes"] in ("", "base") and line["top1"]:
                found[line["method"]][line["seed"], half][name] = 100 * float(line["top1"])
    scores = {}
    for method, halves in found.items():
        assert all(of_data.keys() == set(names) for of_data in halves.values()), method
        seeds = sorted({seed for seed, _ in halves})
        scores[method] = [tuple(fmean(halves[seed, half].values()) for half in ("base", "new")) for seed in seeds]
    return scores


def means(of_seeds: list[tuple[float, float]]) -> tuple[float, float, float]:
    base, new = map(fmean, zip(*of_seeds, strict=True))
    return base, new, harmonic_mean((base, new))
