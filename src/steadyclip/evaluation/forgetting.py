"""What a training changed, from its records and those of the frozen model on the same test images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from steadyclip.core.errors import DataError
from steadyclip.evaluation.records import Record


def _test(record: Record) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    """The images, the names among which they were scored, the prompts, and the pretrained weights."""
    return record.data.hash, record.data.classes, record.data.templates, record.model.weights_hash


def same_test(a: Record, b: Record) -> bool:
    """Both were scored on the same images, among the same names, by the same prompts, from the same weights."""
    return _test(a) == _test(b)


def held_out(record: Record) -> bool:
    """The classes of its test images were not trained on: new classes, or another data set's."""
    return record.role == "transfer" or record.data.subset == "new"


def change(record: Record, frozen: Record) -> float | None:
    """Change of top-1 accuracy against the frozen model; None where either could not classify.

    Raises:
        DataError: the two were not scored on the same test.
    """
    if not same_test(record, frozen):
        raise DataError(
            f"{record.method.label} and {frozen.method.label} were not scored on the same images, names and prompts of "
            f"{record.data.name}: evaluate both again."
        )
    if record.metrics is None or frozen.metrics is None:
        return None
    return record.metrics.top1 - frozen.metrics.top1


def forgetting(records: Sequence[Record], frozen: Iterable[Record]) -> float | None:
    """Mean change of top-1 accuracy over held-out test sets, each the mean over its records; below 0, it was forgotten.

    Args:
        records: of one method, any test sets and seeds; those that are not held out do not count.
        frozen: of the frozen model; a test set without its like among them does not count.

    Returns:
        A difference of fractions, or None where there is no held-out test set with both.
    """
    references = {_test(record): record for record in reversed(list(frozen))}  # of equals the first
    sets: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for record in filter(held_out, records):
        reference = references.get(_test(record))
        changed = None if reference is None else change(record, reference)
        if changed is not None:
            sets.setdefault((record.data.hash, record.data.templates), []).append(changed)
    return statistics.fmean(statistics.fmean(each) for each in sets.values()) if sets else None
