"""One self-contained HTML page from records: readable on a phone, in print and in the dark, without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steadyclip.core.files import write_atomic
from steadyclip.evaluation.records import Confusion, Record
from steadyclip.report.accuracy import bars, curves
from steadyclip.report.cells import HALVES, Section, Table, grouped
from steadyclip.report.chart import Style, styles
from steadyclip.report.reading import reading
from steadyclip.report.scatter import drift, shift
from steadyclip.report.tables import count, main_table, test_names
from steadyclip.report.templates import render, text

# What is shown of the errors; the records keep more.
_SECTIONS, _SETS, _PAIRS = 2, 4, 3


class Family(NamedTuple):
    """Charts of one kind: ``draw`` gives an ``<svg>`` element, or nothing for a section that has no such chart."""

    title: str
    explanation: str
    draw: Callable[[Section, Mapping[str, Style]], str]


_WHISKERS = (
    "Whiskers: standard deviation over seeds; in gray, where there is one run, the 95 % interval over test images."
)
_FAMILIES = (
    Family("Base and new", _WHISKERS, bars),
    Family("Accuracy over shots", f"{_WHISKERS} Methods stand a little beside each other.", curves),
    Family(
        "Under shift",
        "Mean over the domains of the shift against the test set of the source. Large: mean over seeds; small: each. "
        "Above the dashed line a method is better under shift than the frozen model, right of it in distribution. "
        "Lines, where there are any: averages of pretrained and trained weights (WiSE-FT).",
        shift,
    ),
    Family(
        "Drift and forgetting",
        "Change of accuracy on classes and data that were not trained on, against how far features moved there "
        "(1 \N{MINUS SIGN} linear CKA, 0 where nothing moved), both from the frozen model. Large: mean over seeds; "
        "small: each. Below the dashed line something was forgotten.",
        drift,
    ),
)


def write_tables(records: Sequence[Record], stem: Path, title: str) -> list[Path]:
    """The page ``stem.html``, and its tables as ``stem.md`` and ``stem.csv``."""
    table = main_table(records)
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".html", ".md", ".csv")]
    write_page(records, files[0], title)
    write_atomic(files[1], table.markdown().encode())
    write_atomic(files[2], table.csv().encode())
    return files


def write_page(records: Iterable[Record], out: str | Path, title: str | None = None) -> Path:
    """Write the page of an experiment: result in words, tables, charts, confusions with images, settings, versions.

    The same records give the same bytes. Nothing is loaded from outside the file, and the page forbids it; its one
    script sorts tables and is known to the page by its hash.

    Args:
        records: in the order in which rows and sections shall appear.
        out: the HTML file.
        title: by default the names of the data sets.

    Raises:
        DataError: there is no record.
        SteadyClipError: the file cannot be written.
    """
    records = list(records)
    table, script = main_table(records), text("sort.js")
    names = list(dict.fromkeys(r.data.name for r in records))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    models = list(dict.fromkeys(r.model for r in records))
    about = f"{', '.join(dict.fromkeys(m.name for m in models))}; {count(len(records), 'evaluation')}"
    versions, mixed = _versions(records)
    page = render(
        "page.html",
        title=title or listed,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        subtitle=f"{about}, the last on {max(r.created for r in records)[:10]}",
        reading=reading(table),
        table=table.html(),
        baseline=next((section.baseline.label for section in table.sections if section.baseline), None),
        halves=any(section.base_to_new for section in table.sections),
        half_names=HALVES,
        curves=any(section.shots for section in table.sections),
        sets=_SETS,
        charts=_charts(table),
        errors=[(section.title, found) for section in table.sections[:_SECTIONS] if (found := _errors(section))],
        settings=_settings(table),
        evaluations=[r for r in records if r.metrics is not None],
        data=list({(*_place(r), r.data.hash): r.data for r in records}.values()),
        models=models,
        versions=versions,
        mixed=mixed,
    )
    write_atomic(Path(out), page.encode())
    return Path(out)


def _place(record: Record) -> tuple[str, str, str | None]:
    return record.data.name, record.data.subset, record.data.domain


def _charts(table: Table) -> list[tuple[Family, list[tuple[str, str]]]]:
    """For each kind of chart that there is, title and ``<svg>`` of its sections."""
    looks = styles(row.series for section in table.sections for row in section.rows if row is not section.baseline)
    found = []
    for family in _FAMILIES:
        drawn = [(section.title, svg) for section in table.sections if (svg := family.draw(section, looks))]
        found += [(family, drawn)] if drawn else []
    return found


def _errors(section: Section) -> dict[str, list[tuple[str, tuple[Confusion, ...]]]]:
    """For each method the confusions of its first seed, with most shots, on the test sets that are hardest for it."""
    names = test_names(record for row in section.rows for record in row.records)
    found = {}
    for row in section.rows:
        scored = [(r.metrics.top1, r) for r in row.records if r.metrics and r.confusions and r.wise_alpha is None]
        scored.sort(key=lambda each: (each[1].seed or 0, -(each[1].shots or 0)))
        firsts = [of[0] for of in grouped(scored, lambda each: _place(each[1])).values()]
        hardest = sorted(top1 for top1, _ in firsts)[:_SETS]
        if firsts:
            shown = [record for top1, record in firsts if top1 <= hardest[-1]][:_SETS]
            found[row.label] = [(names[_place(record)], record.confusions[:_PAIRS]) for record in shown]
    return found


def _settings(table: Table) -> list[tuple[str, str, dict[str, str]]]:
    """Method label, what it was trained on, and every knob, recipe value and choice made in training that is set."""
    rows = {}
    for section in table.sections:
        for row in section.rows:
            rows.setdefault(row.series, row.records)
    return [(label, _trained_on(records[0]), _values(records)) for label, records in rows.items()]


def _trained_on(record: Record) -> str:
    if record.training is None:
        return "not trained"
    return "all training images" if record.shots is None else count(record.shots, "shot")


def _values(records: Sequence[Record]) -> dict[str, str]:
    """Setting -> value, or its values where they differ between seeds."""
    settings = []
    for record in records:
        facts = dict(record.method.knobs)
        if run := record.training:
            choices = run.results.choices if run.results else {}
            facts |= {**(run.recipe or {}), **choices, "precision": run.config.get("precision")}
        facts["scored in"] = record.precision
        settings += [(k, _plain(v)) for k, v in facts.items() if v is not None and not isinstance(v, dict)]
    return {name: " / ".join(dict.fromkeys(v for _, v in of)) for name, of in grouped(settings, lambda s: s[0]).items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(records: Sequence[Record]) -> tuple[dict[str, str], str]:
    """Each package with its versions, and one sentence when the records do not agree on them."""
    all_ = [each for r in records for each in {**r.versions, "commit": r.commit or "none"}.items()]
    found = {name: dict.fromkeys(v for _, v in of) for name, of in grouped(all_, lambda each: each[0]).items()}
    mixed = [name for name, versions in found.items() if len(versions) > 1]
    sentence = f"The records come from different versions of {', '.join(mixed)}." if mixed else ""
    return {name: ", ".join(versions) for name, versions in found.items()}, sentence
