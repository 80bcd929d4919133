"""Published numbers of CLIP ViT-B/16 with OpenAI's weights, to stand beside those that were measured.

``published.csv`` has one number a line, as it was printed, in percent. Its columns: ``protocol`` (as ``bench`` calls
them), ``data`` (a data set of the catalog, or the mean of some), ``column`` (of the table), ``name`` (of the method in
the source), ``method`` (ours, where we have it, as a row), ``value``, ``source``, ``tag`` (S: printed there or quoted
from there; D: follows by arithmetic) and ``note``.
"""

from __future__ import annotations

import csv
import functools
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

from steadyclip.data import catalog
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import HALVES, MEANS, Section, grouped

MODELS = ("openai/clip-vit-base-patch16", "open_clip:ViT-B-16/openai", "open_clip:ViT-B-16-quickgelu/openai")
"""Names under which these weights are loaded."""
_SOURCE, _SHOTS = "ImageNet", 16
_TEN = [
    "Caltech101",
    "OxfordPets",
    "StanfordCars",
    "Flowers102",
    "Food101",
    "FGVCAircraft",
    "SUN397",
    "DTD",
    "EuroSAT",
    "UCF101",
]
_SHIFTS = ("ImageNet-V2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
AVERAGES = {
    frozenset((_SOURCE, *_TEN)): "mean of 11",
    frozenset(_TEN): "mean of 10",
    frozenset(_SHIFTS): "mean of 4",
    frozenset((*_SHIFTS, "ObjectNet")): "mean of 5",
}
"""Data sets -> what their unweighted mean is called in ``published.csv``."""

Number = namedtuple("Number", "protocol data column name method value source tag note")
"""A line of ``published.csv``."""


@functools.cache
def numbers() -> tuple[Number, ...]:
    """All lines of ``published.csv``."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        return tuple(Number(**line) for line in csv.DictReader(file))


def add_published(section: Section) -> None:
    """Put published numbers into the cells of the section, and into it where they are from.

    A number is shown only where model, protocol, number of shots, data sets and method are those of its source, and a
    section takes a protocol's numbers from one source: that with most of the section's methods.
    """
    if not all(record.model.name in MODELS and _whole(record) for record in section.records):
        return
    wanted = _wanted(section)
    # nothing else was changed and no weights averaged where the label is the row; compositions may be called anything
    rows = {row.label: row for row in section.rows if row.label.partition("[")[0] == row.records[0].method.name}
    hits = [n for n in numbers() if n.method in rows and (n.protocol, n.data, n.column) in wanted]
    notes, sources = [], []
    for of_protocol in grouped(hits, lambda n: n.protocol).values():
        by_source = grouped(of_protocol, lambda n: n.source).values()
        for number in max(by_source, key=lambda of: len({n.method for n in of})):  # of equals the first
            cell = rows[number.method].cells[wanted[number.protocol, number.data, number.column]]
            cell.published = number.value
            notes += [f"{number.name}: {number.note}"] if number.note else []
            sources.append(number.source)
    if sources:
        said = f" ({'; '.join(dict.fromkeys(notes))})" if notes else ""
        section.published = f"{section.title}, published: {' and '.join(dict.fromkeys(sources))}{said}. Not run here."


def _wanted(section: Section) -> dict[tuple[str, str, str], int]:
    """Protocol, data and column of ``published.csv`` -> the column of the section that it is to be compared with."""
    records = section.records
    shots = {r.shots for r in records if r.training is not None}
    if section.base_to_new:
        data = _called(r.data.name for r in records)
        return {("base-to-new", data, name): i for i, name in enumerate((*HALVES, "H"))} if shots <= {_SHOTS} else {}
    if section.shots:
        data = _called(r.data.name for r in records)
        return {("few-shot", data, str(count)): i for i, count in enumerate(section.shots)}
    sets = {role: {_known(r.data.name) for r in of} for role, of in grouped(records, lambda r: r.role).items()}
    if sets.get("id") != {_SOURCE} or shots not in ({None}, {_SHOTS}):
        return {}
    wanted = {}
    for i, column in enumerate(section.columns):
        for role, names in sets.items():
            own = _known(column)
            if own in names or column == MEANS.get(role):
                shifted = role == "ood" or (role == "id" and "ood" in sets)
                protocol = "robust" if shots == {None} else "domain-generalization" if shifted else "cross-dataset"
                wanted[protocol, own or _called(names), "top-1"] = i
    return wanted


def _known(name: str) -> str:
    entry = catalog.find(name)
    return entry.name if entry else ""


def _called(names: Iterable[str]) -> str:
    """One data set, or the mean of some, as in ``published.csv``; "" if there is no such thing there."""
    known = frozenset(map(_known, names))
    return next(iter(known)) if len(known) == 1 else AVERAGES.get(known, "")


def _whole(record: Record) -> bool:
    """The record is of one of the field's data sets with all its classes, or half of them, not of a namesake."""
    entry = catalog.find(record.data.name)
    if entry is None:
        return False
    classes = {"base": (entry.classes + 1) // 2, "new": entry.classes // 2}
    return len(record.data.classes) == classes.get(record.data.subset, entry.classes)
