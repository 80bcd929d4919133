"""One self-contained HTML page from records: readable on a phone, in print and in the dark, without a network."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steadyclip.core.files import write_atomic
from steadyclip.core.words import counted
from steadyclip.evaluation.records import Confusion, Record
from steadyclip.report import charts
from steadyclip.report.cells import HALVES, Section, Table, grouped, render
from steadyclip.report.classes import class_rows
from steadyclip.report.reading import reading
from steadyclip.report.run_charts import charts_of_run
from steadyclip.report.tables import main_table, test_names
from steadyclip.report.verdict import verdict

# What is shown of the errors; the records keep more.
_SECTIONS, _SETS, _PAIRS = 2, 4, 3
_LONG = 22
"""Characters of a label above which the page gives it a short name."""


def write_tables(records: Sequence[Record], stem: Path, title: str) -> list[Path]:
    """The page ``stem.html``, and its tables as ``stem.md`` and ``stem.csv``."""
    table = main_table(records)
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".html", ".md", ".csv")]
    write_page(records, files[0], title)
    write_atomic(files[1], table.markdown().encode())
    write_atomic(files[2], table.csv().encode())
    return files


def write_page(records: Iterable[Record], out: str | Path, title: str | None = None, run: Path | None = None) -> Path:
    """Write the page of an experiment: result in words, tables, charts, confusions with images, settings, versions.

    The same records give the same bytes. Nothing is loaded from outside the file, and the page forbids it; its one
    script sorts tables and is known to the page by its hash.

    Args:
        records: in the order in which rows and sections shall appear.
        out: the HTML file.
        title: by default the names of the data sets.
        run: the folder of the run that the records are of: the page then shows how it learned, and how sure it is.

    Raises:
        DataError: there is no record.
        SteadyClipError: the file cannot be written.
    """
    records = list(records)
    table, legend = short_labels(main_table(records))
    names = list(dict.fromkeys(r.data.name for r in records))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    models = list(dict.fromkeys(r.model for r in records))
    about = f"{', '.join(dict.fromkeys(m.name for m in models))}; {counted(len(records), 'evaluation')}"
    versions = _collected(item for r in records for item in {**r.versions, "commit": r.commit or "none"}.items())
    found = verdict(records)
    page = render(
        "page.html",
        title=title or listed,
        subtitle=f"{about}, the last on {max(r.created for r in records)[:10]}",
        verdict=found,
        classes=class_rows(found) if found else [],
        reading=reading(table),
        table=table,
        legend=legend,
        short={label: name for name, label in legend.items()},
        baseline=next((section.baseline for section in table.sections if section.baseline), None),
        halves=any(section.base_to_new for section in table.sections),
        half_names=HALVES,
        curves=any(section.shots for section in table.sections),
        sets=_SETS,
        charts={**_charts(table), **charts_of_run(run, found)},
        errors=[(section.title, found) for section in table.sections[:_SECTIONS] if (found := _errors(section))],
        settings=_settings(table),
        evaluations=[r for r in records if r.metrics is not None],
        data=list({(r.data.place, r.data.hash): r.data for r in records}.values()),
        models=models,
        versions=versions,
        mixed=[name for name, found in versions.items() if len(found) > 1],
    )
    write_atomic(Path(out), page.encode())
    return Path(out)


def short_labels(table: Table) -> tuple[Table, dict[str, str]]:
    """The table with short names for rows whose labels would fill a phone, and these names with the labels.

    ``lora[rank=4,layers=q:v,epochs=5]`` becomes ``lora``, or ``lora (2)`` where another row is called so already.
    """
    labels = dict.fromkeys(row.label for section in table.every for row in section.rows)
    short: dict[str, str] = {}
    for label in labels:
        found = re.fullmatch(r"([^\[]+)\[.*\](.*)", label, re.DOTALL)
        if found and len(label) > _LONG:
            taken = {*short.values(), *(other for other in labels if other not in short and other != label)}
            names = (f"{found[1]}{number}{found[2]}" for number in _numbers())
            short[label] = next(name for name in names if name not in taken)

    def renamed(sections: Sequence[Section]) -> tuple[Section, ...]:
        return tuple(
            replace(section, rows=[replace(row, label=short.get(row.label, row.label)) for row in section.rows])
            for section in sections
        )

    return replace(table, sections=renamed(table.sections), differences=renamed(table.differences)), {
        name: label for label, name in short.items()
    }


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f" ({i})" for i in itertools.count(2))


def write_charts(table: Table, folder: Path) -> list[Path]:
    """Each chart of a page as an SVG file of its own: ``bars-lab-things-base-to-new.svg``.

    Raises:
        SteadyClipError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, of_sections in _charts(table).items():
        for title, svg in of_sections.items():
            files.append(folder / f"{kind}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.svg")
            write_atomic(files[-1], charts.standalone(svg).encode())
    return files


def _charts(table: Table) -> dict[str, dict[str, str]]:
    """For each kind of chart the title and ``<svg>`` of the sections that have it."""
    looks = charts.styles(
        row.series for section in table.sections for row in section.rows if row is not section.baseline
    )
    kinds = (charts.exchange, charts.bars, charts.curves, charts.shift, charts.drift)
    sections = sorted(table.sections, key=lambda section: not section.average)
    return {
        draw.__name__: {
            section.title: svg
            for section in (table.differences if draw is charts.exchange else sections)
            if (svg := draw(section, looks))
        }
        for draw in kinds
    }


def _errors(section: Section) -> dict[str, list[tuple[str, tuple[Confusion, ...]]]]:
    """For each method the confusions of its first seed, with most shots, on the test sets that are hardest for it."""
    names = test_names(section.records)
    found = {}
    for row in section.rows:
        scored = [(r.metrics.top1, r) for r in row.records if r.metrics and r.confusions and r.wise_alpha is None]
        scored.sort(key=lambda each: (each[1].seed or 0, -(each[1].shots or 0)))
        firsts = [of[0] for of in grouped(scored, lambda each: each[1].data.place).values()]
        hardest = sorted(top1 for top1, _ in firsts)[:_SETS]
        if firsts:
            shown = [record for top1, record in firsts if top1 <= hardest[-1]][:_SETS]
            found[row.label] = [(names[record.data.place], record.confusions[:_PAIRS]) for record in shown]
    return found


def _settings(table: Table) -> list[tuple[str, Record, dict[str, str]]]:
    """Method label, its first record, and every knob, recipe value and choice made in training that is set, with its
    values where they differ between seeds."""
    series: dict[str, list[Record]] = {}
    for section in table.sections:
        for row in section.rows:
            series.setdefault(row.series, row.records)
    found = []
    for label, records in series.items():
        items = ((k, _plain(v)) for r in records for k, v in _facts(r) if v is not None and not isinstance(v, dict))
        found.append((label, records[0], {name: " / ".join(values) for name, values in _collected(items).items()}))
    return found


def _facts(record: Record) -> Iterable[tuple[str, Any]]:
    facts = dict(record.method.knobs)
    if run := record.training:
        choices = run.results.choices if run.results else {}
        facts |= {**(run.recipe or {}), **choices, "precision": run.config.get("precision")}
    return {**facts, "scored in": record.precision}.items()


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _collected(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> its values, each once."""
    groups = grouped(items, lambda item: item[0])
    return {name: list(dict.fromkeys(value for _, value in group)) for name, group in groups.items()}
