"""Fills the tables of README and docs from results/*.csv: no number there is typed.

    python recipes/tables.py

A table stands below ``<!-- results/FILE.csv NAME -->``. Its first column names rows of ``steadyclip bench``, and may
say more behind a colon; the columns base, new and H are computed here. NAME is a data set, several with commas between
them, or a suite such as `suite`: then each number is the mean over its data sets, of the seeds that have them all. To
add a row, write its first column and run this. NAME/each has a line for each data set instead, and in it base / new of
the methods in its head. NAME/shots is top-1 on all classes, with a column for each number of shots in its head.
NAME/transfer is what was trained on NAME: in distribution, and the means over its shifts and over other data sets.
With NAME `chosen` it is the best row of each method in settings.csv.
Of a FILE-differences.csv, NAME is the column (base, new, H), and the head names references; or NAME is to/REFERENCE,
and the head names the columns.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, harmonic_mean, stdev

from steadyclip.data.suites import find_suite

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARK = re.compile(r"<!-- (results/\S+\.csv) (\S+) -->\n\n(.*?)\n\n", re.DOTALL)

Scores = list[tuple[float, ...]]
"""Base and new in percent, for each seed; or in distribution, under shift and on other data."""
Found = dict[str, dict[str, dict[tuple[str, str], float]]]
"""Method -> seed -> test -> percent."""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        try:
            new = filled(text)
        except (KeyError, ValueError, OSError) as error:
            raise SystemExit(f"error: {file.relative_to(ROOT)}: {type(error).__name__} {error} in a table.") from None
        if text != new:
            file.write_text(new, encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")


def filled(text: str) -> str:
    """The text with all of its tables made anew."""
    return MARK.sub(lambda found: f"<!-- {found[1]} {found[2]} -->\n\n{table(found[1], found[2], found[3])}\n\n", text)


def table(source: str, name: str, old: str) -> str:
    """The lines of a table, with the rows of the ``old`` one."""
    if name == "chosen":
        return chosen(ROOT / source)
    if source.endswith("-differences.csv"):
        return differences(ROOT / source, name, old)
    name, _, kind = name.partition("/")
    suite = find_suite(name)
    members = list(suite.members) if suite else name.split(",")
    if kind == "each":
        return by_data(ROOT / source, members, old)
    if kind == "shots":
        return by_shots(ROOT / source, members, old)
    if kind == "transfer":
        scores = read_transfer(ROOT / source, name)
        columns = ["in distribution", "mean of shifts", "mean of other data"]
    else:
        scores = read(ROOT / source, members)
        columns = ["base", "new", "H"]
    rows = {label: scores[row] for label, row in rows_of(old).items()}
    best = [max(round(means(of_seeds)[i], 1) for of_seeds in rows.values()) for i in range(3)]
    lines = [f"| | {' | '.join(columns)} |", "| --- | ---: | ---: | ---: |"]
    for label, of_seeds in rows.items():
        mean, origin = means(of_seeds), means(scores["zero-shot"])
        spread = [f" ± {stdev(values):.1f}" if len(values) > 1 else "" for values in zip(*of_seeds, strict=True)]
        cells = []
        spread += [""] * (len(columns) - len(spread))  # H has none
        for value, around, zero, top in zip(mean, spread, origin, best, strict=True):
            change = "" if label == "zero-shot" else f" ({value - zero:+.1f})".replace("-", "\N{MINUS SIGN}")
            strong = "**" if round(value, 1) == top else ""
            cells.append(f"{strong}{value:.1f}{around}{strong}{change}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(old: str) -> dict[str, str]:
    """First cell -> the row of the bench that it names, for the lines of a table."""
    labels = [line.split("|")[1].strip() for line in old.splitlines()[2:]]
    return {label: re.sub(r"`(.*?)`", r"\1", label.partition(": ")[0]) for label in labels}


def by_data(path: Path, members: list[str], old: str) -> str:
    """A line for each data set: base / new of the methods in the head of the ``old`` table, bold the best H."""
    head = old.splitlines()[0]
    labels = [label.strip() for label in head.split("|")[2:-1]]
    lines = [head, f"| --- |{' ---: |' * len(labels)}"]
    for name in members:
        scores = read(path, [name])
        found = [means(scores[label]) for label in labels]
        best = max(round(h, 1) for *_, h in found)
        cells = [f"{base:.1f} / {new:.1f}" for base, new, _ in found]
        shown = [f"**{cell}**" if round(h, 1) == best else cell for cell, (*_, h) in zip(cells, found, strict=True)]
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def by_shots(path: Path, members: list[str], old: str) -> str:
    """A row for each method of the ``old`` table, a column for each number of shots in its head: the mean over data
    sets, of the seeds that have them all, with their spread; bold the best of a column."""
    head, rows = old.splitlines()[0], rows_of(old)
    shots = [cell.strip().split()[0] for cell in head.split("|")[2:-1]]
    found: dict[str, Found] = {number: defaultdict(lambda: defaultdict(dict)) for number in shots}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            name, half, *_ = [*line["test"].split(), ""]
            if name in members and half not in ("base", "new") and line["classes"] in ("", "all"):
                for number in {line["shots"]} & found.keys() if line["shots"] else shots:
                    put(found[number], line, (name, ""), path)
    columns = []
    for number in shots:
        of_rows = [
            [fmean(of.values()) for of in found[number][row].values() if len(of) == len(members)]
            for row in rows.values()
        ]
        best = max(round(fmean(values), 1) for values in of_rows)
        columns.append([marked(values, best) for values in of_rows])
    lines = [f"| {' | '.join([label, *cells])} |" for label, *cells in zip(rows, *columns, strict=True)]
    return "\n".join([head, f"| --- |{' ---: |' * len(shots)}", *lines])


def marked(values: list[float], best: float) -> str:
    """Mean and spread, bold where the mean is the best."""
    strong = "**" if round(fmean(values), 1) == best else ""
    return f"{strong}{fmean(values):.1f}{f' ± {stdev(values):.1f}' if len(values) > 1 else ''}{strong}"


def differences(path: Path, column: str, old: str) -> str:
    """A row for each method of the ``old`` table, a column for each reference of its head, or, where ``column`` is
    to/REFERENCE, each column of it; bold what is clear."""
    with path.open(newline="") as file:
        found = {(line["method"], line["reference"], line["column"]): line for line in csv.DictReader(file)}
    head, _, *rows = old.splitlines()
    heads = [cell.strip().removeprefix("to ") for cell in head.split("|")[2:-1]]
    fixed = column.removeprefix("to/")
    wanted = [(fixed, name) if fixed != column else (name, column) for name in heads]
    lines = [head, f"| --- |{' ---: |' * len(heads)}"]
    for label in (row.split("|")[1].strip() for row in rows):
        cells = []
        for reference, of in wanted:
            if reference == label:
                cells.append("\N{EN DASH}")
                continue
            line = found[label, reference, of]
            value, low, high = (float(line[name]) for name in ("difference", "low", "high"))
            strong = "**" if low > 0 or high < 0 else ""
            cells.append(f"{strong}{value:+.1f}{strong} ({low:+.1f} to {high:+.1f})".replace("-", "\N{MINUS SIGN}"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chosen(path: Path) -> str:
    """The best row of each method that was tried, with base, new and H; rows without new by base."""
    tried: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            tried[line["method"]][line["row"]].append((float(line["base"]), float(line["new"] or "nan")))
    lines = ["| best of ten | base | new | H |", "| --- | ---: | ---: | ---: |"]
    for rows in tried.values():
        found = {}
        for row, of_data in rows.items():
            base, new = map(fmean, zip(*of_data, strict=True))
            found[row] = (base, None, base) if new != new else (base, new, harmonic_mean((base, new)))
        row = max(found, key=lambda one: found[one][2])
        base, new, h = found[row]
        lines.append(f"| `{row}` | {base:.1f} | " + ("| |" if new is None else f"{new:.1f} | {h:.1f} |"))
    return "\n".join(lines)


def read(path: Path, names: list[str]) -> dict[str, Scores]:
    """Row -> base and new in percent for each seed, the mean over the data sets ``names``; rows that lack some of it
    are left out."""
    found: Found = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            name, half, *_ = [*line["test"].split(), ""]
            if name in names and half in ("base", "new") and line["classes"] in ("", "base") and line["top1"]:
                put(found, line, (name, half), path)
    scores: dict[str, Scores] = {}
    for method, seeds in found.items():
        whole = [of_seed for _, of_seed in sorted(seeds.items()) if len(of_seed) == 2 * len(names)]
        if whole:
            scores[method] = [
                (fmean(of_seed[n, "base"] for n in names), fmean(of_seed[n, "new"] for n in names)) for of_seed in whole
            ]
    return scores


def read_transfer(path: Path, name: str) -> dict[str, Scores]:
    """Row -> the mean in percent over the test sets of each role, for each seed, of what was trained on ``name``."""
    with path.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["role"] and line["top1"]]
    tests = {(line["test"], line["role"]) for line in lines if line["seed"] and line["data"] == name}
    found: Found = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        test = line["test"], line["role"]
        if test in tests and (line["data"] == name or not line["seed"]):
            put(found, line, test, path)
    return {
        method: [
            tuple(fmean(top1 for (_, of), top1 in of_seed.items() if of == role) for role in ("id", "ood", "transfer"))
            for _, of_seed in sorted(seeds.items())
            if of_seed.keys() == tests
        ]
        for method, seeds in found.items()
    }


def put(found: Found, line: dict[str, str], test: tuple[str, str], path: Path) -> None:
    """Adds the number of a line; a second one of the same method, seed and test is refused: it would win in silence."""
    of_seed = found[line["method"]][line["seed"]]
    if test in of_seed:
        raise SystemExit(f"error: {path} has {line['method']} of seed {line['seed']} on {' '.join(test)} twice.")
    of_seed[test] = 100 * float(line["top1"])


def means(of_seeds: Scores) -> tuple[float, float, float]:
    """Base, new and the H of their means; or the three means over test sets."""
    base, new, *other = map(fmean, zip(*of_seeds, strict=True))
    return base, new, other[0] if other else harmonic_mean((base, new))


if __name__ == "__main__":
    main()
