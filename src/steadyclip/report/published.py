"""Published numbers of CLIP ViT-B/16 with OpenAI's weights, to stand beside those that were measured.

``published.csv`` has one number a line, as it was printed, in percent. Its columns: ``protocol`` (as ``bench`` calls
them), ``data`` (a data set of the catalog, or the mean of some), ``column`` (of the table), ``name`` (of the method in
the source), ``method`` (ours, where we have it), ``value``, ``source``, ``tag`` (S: printed there or quoted from there;
D: follows by arithmetic) and ``note``.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from steadyclip.data import catalog
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import MEANS, Section, grouped

MODELS = (
    "openai/clip-vit-base-patch16", "open_clip:ViT-B-16/openai", "open_clip:ViT-B-16-quickgelu/openai",
)  # fmt: skip
"""Names under which these weights are loaded."""
SOURCE, SHOTS = "ImageNet", 16

_TEN = (
    "Caltech101", "OxfordPets", "StanfordCars", "Flowers102", "Food101", "FGVCAircraft", "SUN397", "DTD", "EuroSAT",
    "UCF101",
)  # fmt: skip
_SHIFTS = ("ImageNet-V2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R")
AVERAGES = {
    frozenset((SOURCE, *_TEN)): "mean of 11",
    frozenset(_TEN): "mean of 10",
    frozenset(_SHIFTS): "mean of 4",
    frozenset((*_SHIFTS, "ObjectNet")): "mean of 5",
}
"""Data sets -> what their unweighted mean is called in ``published.csv``."""


class Number(NamedTuple):
    """A line of ``published.csv``."""

    protocol: str
    data: str
    column: str
    name: str
    method: str
    value: str
    source: str
    tag: str
    note: str


@functools.cache
def numbers() -> tuple[Number, ...]:
    """All lines of ``published.csv``."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        return tuple(Number(**line) for line in csv.DictReader(file))


def beside(section: Section) -> Section:
    """The section with published numbers in its cells, and where they are from.

    A number is shown only where model, protocol, number of shots, data sets and method are those of its source, and a
    section takes a protocol's numbers from one source: that with most of the section's methods.
    """
    records = [record for row in section.rows for record in row.records]
    if not all(record.model.name in MODELS and _whole(record) for record in records):
        return section
    wanted = {i: _wanted(section, records, i) for i in range(len(section.columns))}
    # no knob or recipe was changed and no weights averaged where the label is the method's name
    plain = {row.label: at for at, row in enumerate(section.rows) if row.label == row.records[0].method.name}
    hits = [
        (plain[number.method], i, number)
        for number in numbers()
        for i, where in wanted.items()
        if number.method in plain and where == (number.protocol, number.data, number.column)
    ]
    found: dict[tuple[int, int], Number] = {}
    for of_protocol in grouped(hits, lambda hit: hit[2].protocol).values():
        sources = grouped(of_protocol, lambda hit: hit[2].source).values()
        best = max(sources, key=lambda of: len({at for at, _, _ in of}))  # of equals the first
        found |= {(at, i): number for at, i, number in best}
    if not found:
        return section
    rows = []
    for at, row in enumerate(section.rows):
        shown = {i: number.value for (there, i), number in found.items() if there == at}
        cells = (dataclasses.replace(cell, published=shown.get(i, "")) for i, cell in enumerate(row.cells))
        rows.append(dataclasses.replace(row, cells=tuple(cells)))
    notes = dict.fromkeys(f"{n.name}: {n.note}" for n in found.values() if n.note)
    sources = " and ".join(dict.fromkeys(n.source for n in found.values()))
    listed = f" ({'; '.join(notes)})" if notes else ""
    origin = f"{section.title}, published: {sources}{listed}. Not run here."
    baseline = rows[0] if section.baseline is not None else None  # it goes first
    return dataclasses.replace(section, rows=tuple(rows), baseline=baseline, published=origin)


def _wanted(section: Section, records: Iterable[Record], index: int) -> tuple[str, str, str] | None:
    """Protocol, data and column of ``published.csv`` that the column ``index`` is to be compared with."""
    column, names = section.columns[index], grouped(records, lambda r: r.role)
    shots = {r.shots for r in records if r.training is not None}
    if section.base_to_new:
        data = _called(r.data.name for r in records)
        short = {"H of averages": "H", "mean of Hs": ""}.get(column, column)
        return ("base-to-new", data, short) if shots <= {SHOTS} and data and short else None
    home = {_known(r.data.name) for r in names.get("id", ())}
    if section.shots or home != {SOURCE} or len(shots) != 1:
        return None
    own = _known(column)
    roles = (k for k, of in names.items() if column == MEANS.get(k) or own in {_known(r.data.name) for r in of})
    role = next(roles, "")
    data = own or _called(r.data.name for r in names.get(role, ()))
    if not data or not role:
        return None
    if shots == {None}:
        return "robust", data, "top-1"
    if shots != {SHOTS}:
        return None
    shifted = role == "ood" or (role == "id" and "ood" in names)
    return "domain-generalization" if shifted else "cross-dataset", data, "top-1"


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
