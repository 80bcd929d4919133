"""Records as one CSV file, a line for each evaluation: what a repository keeps of its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from steadyclip.core.files import csv_text
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import Table

FIELDS = (
    "model", "data", "method", "settings", "classes", "shots", "seed", "test", "role", "top1", "low", "high", "images",
    "record",
)  # fmt: skip


def results(records: Iterable[Record]) -> str:
    """The lines of ``records``, sorted, under a header; the same results give the same text.

    ``method`` is a row with its knobs, ``classes`` which were trained on (all, base), ``test`` what was scored (the
    data set, with half and domain where there are such). Accuracies are fractions, ``low`` and ``high`` the ends of the
    95 % interval. ``record`` is a hash of which images were tested and which were right: equal where nothing changed.
    """
    return csv_text([FIELDS, *sorted({_line(record) for record in records})])


def differences(table: Table) -> str:
    """The paired differences of a table, in percent points: a line for each row, reference and column."""
    lines = [
        (section.title.rpartition(": difference to ")[2], row.label, column, *(f"{x:.4f}" for x in ends))
        for section in table.differences
        for row in section.rows
        for column, cell in zip(section.columns, row.cells, strict=True)
        if None not in (ends := (cell.value, cell.low, cell.high))
    ]
    return csv_text([("reference", "method", "column", "difference", "low", "high"), *lines])


def _line(record: Record) -> tuple[str, ...]:
    training, data, metrics = record.training, record.data, record.metrics
    subset = () if data.subset == "all" else (data.subset,)
    numbers = [] if metrics is None else [metrics.top1, *metrics.interval95]
    facts = f"{data.hash}/{record.correct or record.reason}/{metrics and metrics.top1}"
    return (
        record.model.name,
        training.task.name if training else data.name,
        record.method.label,
        record.settings,
        training.task.subset if training else "",
        "" if training is None else "all" if record.shots is None else str(record.shots),
        "" if record.seed is None else str(record.seed),
        " ".join((data.name, *subset, *filter(None, [data.domain]))),
        record.role,
        *(f"{number:.6f}" for number in numbers),
        *[""] * (3 - len(numbers)),
        str(data.images),
        hashlib.sha256(facts.encode()).hexdigest()[:12],
    )
