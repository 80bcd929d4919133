"""One self-contained HTML page from records: readable on a phone, in print and in the dark, without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyclip.core.files import write_atomic
from steadyclip.evaluation.records import Confusion, Record
from steadyclip.report.bars import bars
from steadyclip.report.cells import HALVES, Row, Section, Table
from steadyclip.report.chart import Style, styles
from steadyclip.report.curves import curves
from steadyclip.report.reading import reading
from steadyclip.report.scatter import drift, shift
from steadyclip.report.tables import main_table, test_names
from steadyclip.report.templates import render, text

# What is shown of the errors; the records keep more.
_SECTIONS, _SETS, _PAIRS = 2, 4, 3


@dataclass(frozen=True)
class Errors:
    """The most frequent confusions of one method on one test set."""

    where: str
    pairs: tuple[Confusion, ...]

    @property
    def half(self) -> str:
        """ "base" or "new", which have colors of their own, or nothing."""
        return self.where if self.where in HALVES else ""


@dataclass(frozen=True)
class Family:
    """Charts of one kind: ``draw`` gives an ``<svg>`` element, or nothing for a section that has no such chart."""

    title: str
    explanation: str
    draw: Callable[[Section, Mapping[str, Style]], str]


_WHISKERS = (
    "Whiskers: standard deviation over seeds; in gray, where there is one run, the 95 % interval over test images."
)
_FAMILIES = (
    Family("Base and new", _WHISKERS, lambda section, _: bars(section)),
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
    table = main_table(records)
    write_atomic(Path(out), _page(records, table, title or _title(records)).encode())
    return Path(out)


def _page(records: Sequence[Record], table: Table, title: str) -> str:
    versions, mixed = _versions(records)
    script = text("sort.js")
    return render(
        "page.html",
        title=title,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        subtitle=_subtitle(records),
        reading=reading(table),
        table=table.html(),
        baseline=next((section.baseline.label for section in table.sections if section.baseline), None),
        halves=any(section.base_to_new for section in table.sections),
        curves=any(section.shots for section in table.sections),
        sets=_SETS,
        charts=_charts(table),
        errors=[(section.title, found) for section in table.sections[:_SECTIONS] if (found := _errors(section))],
        settings=_settings(table),
        evaluations=[r for r in records if r.metrics is not None],
        data=list({(r.data.name, r.data.subset, r.data.domain, r.data.hash): r.data for r in records}.values()),
        models=list(dict.fromkeys(r.model for r in records)),
        versions=versions,
        mixed=mixed,
    )


def _title(records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(r.data.name for r in records))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _subtitle(records: Sequence[Record]) -> str:
    models = ", ".join(dict.fromkeys(r.model.name for r in records))
    count = len(records)
    return (
        f"{models}; {count} evaluation{'s' if count != 1 else ''}, the last on {max(r.created for r in records)[:10]}"
    )


def _charts(table: Table) -> list[tuple[Family, list[tuple[str, str]]]]:
    """For each kind of chart that there is, title and ``<svg>`` of its sections."""
    looks = styles(row.series for section in table.sections for row in section.rows if row is not section.baseline)
    found = []
    for family in _FAMILIES:
        drawn = [(section.title, family.draw(section, looks)) for section in table.sections]
        if any(svg for _, svg in drawn):
            found.append((family, [(title, svg) for title, svg in drawn if svg]))
    return found


def _errors(section: Section) -> dict[str, list[Errors]]:
    """For each method the confusions of its first seed, with most shots, on the test sets that are hardest for it."""
    names = test_names(record for row in section.rows for record in row.records)
    found: dict[str, list[Errors]] = {}
    for row in section.rows:
        firsts: dict[tuple[str, str, str | None], Record] = {}
        tops: dict[tuple[str, str, str | None], float] = {}
        for record in sorted(row.records, key=lambda r: (r.seed or 0, -(r.shots or 0))):
            if record.metrics and record.confusions and record.wise_alpha is None:
                test = record.data.name, record.data.subset, record.data.domain
                firsts.setdefault(test, record)
                tops.setdefault(test, record.metrics.top1)
        hardest = sorted(tops, key=lambda test: tops[test])[:_SETS]
        for test, record in firsts.items():
            if test in hardest:
                found.setdefault(row.label, []).append(Errors(names[test], record.confusions[:_PAIRS]))
    return found


def _settings(table: Table) -> list[tuple[str, str, dict[str, str]]]:
    """Method label, what it was trained on, and every knob, recipe value and choice made in training that is set."""
    rows: dict[str, Row] = {}
    for section in table.sections:
        for row in section.rows:
            rows.setdefault(row.series, row)
    return [(label, _trained_on(row.records[0]), _values(row.records)) for label, row in rows.items()]


def _trained_on(record: Record) -> str:
    if record.training is None:
        return "not trained"
    return "all training images" if record.shots is None else f"{record.shots} shot{'s' if record.shots != 1 else ''}"


def _values(records: Sequence[Record]) -> dict[str, str]:
    """Setting -> value, or its values where they differ between seeds."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        settings = dict(record.method.knobs)
        if run := record.training:
            choices = run.results.choices if run.results else {}
            settings |= {**(run.recipe or {}), **choices, "precision": run.config.get("precision")}
        settings["scored in"] = record.precision
        for name, value in settings.items():
            if value is not None and not isinstance(value, dict):
                found.setdefault(name, {})[_plain(value)] = None
    return {name: " / ".join(values) for name, values in found.items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(records: Sequence[Record]) -> tuple[dict[str, str], str]:
    """Each package with its versions, and one sentence when the records do not agree on them."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in {**record.versions, "commit": record.commit or "none"}.items():
            found.setdefault(name, {})[version] = None
    mixed = [name for name, versions in found.items() if len(versions) > 1]
    sentence = f"The records come from different versions of {', '.join(mixed)}." if mixed else ""
    return {name: ", ".join(versions) for name, versions in found.items()}, sentence
