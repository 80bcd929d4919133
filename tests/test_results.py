"""What README and docs print are the numbers of ``results/*.csv``: see ``recipes/tables.py``."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "recipes" / "tables.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_the_first_screen_has_a_table_that_is_checked() -> None:
    assert tables().MARK.search((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", tables().FILES, ids=lambda file: file.stem)
def test_a_printed_table_is_that_of_the_results(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert tables().filled(text) == text, "python recipes/tables.py makes the tables anew"


def test_a_cell_is_the_mean_of_its_lines(tmp_path: Path) -> None:
    lines = [
        ("zero-shot", "", "", "a base all", "0.4"), ("zero-shot", "", "", "a new all", "0.6"),
        ("zero-shot", "", "", "b base all", "0.2"), ("zero-shot", "", "", "b new all", "0.4"),
        *(("full", "base", seed, f"{data} {half} all", f"{top1:.2f}") for seed in ("1", "2") for data in "ab"
          for half, top1 in (("base", 0.7 + 0.1 * int(seed)), ("new", 0.4 if data == "a" else 0.2))),
        ("full", "base", "3", "a base all", "0.1"),  # a seed that is not whole yet
        ("full", "all", "1", "a base all", "0.1"),  # trained on other classes
    ]  # fmt: skip
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("method", "classes", "seed", "test", "top1"), *lines])
    module = tables()
    module.ROOT = tmp_path
    made = module.table("results.csv", "a,b", "\n\n| zero-shot | | | |\n| `full`: all weights | | | |")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines()[2:]]
    assert cells[0] == ["zero-shot", "30.0", "**50.0**", "37.5"]
    assert cells[1][0] == "`full`: all weights"
    assert cells[1][1] == "**85.0 ± 7.1** (+55.0)"
    assert cells[1][2] == "30.0 ± 0.0 (\N{MINUS SIGN}20.0)"
    assert cells[1][3] == "**44.3** (+6.8)"
    assert not re.search(r"\d,\d", made)
    each = module.table("results.csv", "a,b/each", "| | zero-shot | full |\n| --- |\n| old | | |")
    assert each.splitlines()[2:] == [
        "| `a` | 40.0 / 60.0 | **85.0 / 40.0** |",
        "| `b` | 20.0 / 40.0 | **85.0 / 20.0** |",
    ]


def test_a_table_of_transfer_has_the_means_of_each_role(tmp_path: Path) -> None:
    where = (("home plain", "id"), ("home wild", "ood"), ("home night", "ood"), ("other all", "transfer"))
    lines = [
        ("home" if "home" in test else "other", "zero-shot", "", test, role, f"0.{i + 2}")
        for i, (test, role) in enumerate(where)
    ]
    lines += [
        ("home", "full", seed, test, role, f"0.{i + 3}{seed}")
        for seed in ("1", "2") for i, (test, role) in enumerate(where)
    ]  # fmt: skip
    lines += [("home", "full", "3", "home plain", "id", "0.9")]  # a seed that is not whole yet
    lines += [("elsewhere", "full", "1", "elsewhere all", "id", "0.9")]
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("data", "method", "seed", "test", "role", "top1"), *lines])
    module = tables()
    module.ROOT = tmp_path
    made = module.table("results.csv", "home/transfer", "\n\n| zero-shot | | | |\n| `full`: all | | | |")
    assert made.splitlines() == [
        "| | in distribution | mean of shifts | mean of other data |",
        "| --- | ---: | ---: | ---: |",
        "| zero-shot | 20.0 | 35.0 | 50.0 |",
        "| `full`: all | **31.5 ± 0.7** (+11.5) | **46.5 ± 0.7** (+11.5) | **61.5 ± 0.7** (+11.5) |",
    ]


def test_a_table_of_shots_has_the_mean_of_the_seeds_that_are_whole(tmp_path: Path) -> None:
    lines = [("zero-shot", "", "", "", f"{data} all", "0.3") for data in "ab"]
    lines += [
        ("probe", "all", shots, seed, f"{data} all", f"0.{shots}{seed}")
        for shots in ("2", "4") for seed in ("1", "2") for data in "ab"
    ]  # fmt: skip
    lines += [("probe", "all", "2", "3", "a all", "0.9")]  # a seed that is not whole yet
    lines += [("probe", "base", "2", "1", "a base all", "0.9"), ("probe", "all", "2", "1", "elsewhere all", "0.9")]
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("method", "classes", "shots", "seed", "test", "top1"), *lines])
    module = tables()
    module.ROOT = tmp_path
    made = module.table("results.csv", "a,b/shots", "| | 2 shots | 4 |\n\n| zero-shot | | |\n| `probe`: linear | | |")
    assert made.splitlines() == [
        "| | 2 shots | 4 |",
        "| --- | ---: | ---: |",
        "| zero-shot | **30.0** | 30.0 |",
        "| `probe`: linear | 21.5 ± 0.7 | **41.5 ± 0.7** |",
    ]


def test_a_number_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    lines = [("full", "base", "1", "a base all", top1) for top1 in ("0.4", "0.5")]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("method", "classes", "seed", "test", "top1"), *lines])
    with pytest.raises(SystemExit, match="has full of seed 1 on a base twice"):
        tables().read(path, ["a"])
