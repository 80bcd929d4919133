"""What a run is scored on: among which classes, by which prompts, and what is said about it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from steadyclip.core.errors import DataError
from steadyclip.data import catalog
from steadyclip.data.prompts import DEFAULT_TEMPLATE
from steadyclip.data.sampling import Subset, class_range
from steadyclip.evaluation.records import Record, TaskInfo, scored_among

if TYPE_CHECKING:
    from steadyclip.data import ImageData


class ClassSet(NamedTuple):
    """Classes to score among, by number. ``subset`` is what they are to the run: all, base (trained on), new, or words
    that say it."""

    subset: str
    classes: Sequence[int]
    note: str = ""


def tests_of(data: ImageData, trained: TaskInfo | None, asked: Subset | None) -> list[ClassSet]:
    """The sets of classes to score.

    Base is what the run was trained on, by the names of the classes, and new is every other class of ``data``. Where a
    run was trained on all classes, a half of them is neither, and is called what it is.

    Args:
        trained: what the run was trained on; None where nothing was trained, and halves are cut as for a training.
        asked: the subset that the user named.

    Raises:
        DataError: base and new are asked for, but ``data`` lacks classes that the run was trained on, or has no others.
    """
    every = range(len(data.classes))
    whole = ClassSet("all", every, _compared(data, trained))
    if asked == "all" or (asked is None and (trained is None or trained.subset == "all")):
        return [whole]
    if asked and (trained is None or trained.subset == "all"):
        half = every[slice(*class_range(len(every), asked))]
        if trained is None:
            return [ClassSet(asked, half)]
        known = len({data.classes[number] for number in half} & set(trained.classes))
        note = f"{known} of these {len(half)} classes were trained on: this is no base-to-new evaluation."
        return [ClassSet(f"{'first' if asked == 'base' else 'last'} {len(half)} of {len(every)}", half, note)]
    assert trained is not None
    own, missing = _numbers(trained.classes, data.classes)
    if missing and asked is None:
        return [whole]
    if missing:
        raise DataError(
            f"{data.name} lacks {len(missing)} of the {len(trained.classes)} classes that the run was trained on, for "
            f"instance {missing[0]!r}: score it without --subset."
        )
    others = sorted(set(every) - set(own))
    note = ""
    if Counter(data.classes[number] for number in others) != Counter(trained.others):
        note = f"{len(others)} new classes, other ones than the {len(trained.others)} of the data that was trained on."
    # of a run on the second half, that half is called new, and the other one is what is new to it
    first, second = ("base", "new") if trained.subset == "base" else ("new", "base")
    halves = {first: ClassSet(first, own), second: ClassSet(second, others, note)}
    if asked and not halves[asked].classes:
        raise DataError(f"{data.name} has no class that the run was not trained on: score it without --subset.")
    return [test for name in ("base", "new") if asked in (None, name) and (test := halves[name]).classes]


def _numbers(names: Sequence[str], classes: Sequence[str]) -> tuple[list[int], list[str]]:
    """Where ``names`` stand in ``classes``, each place once as two classes may have one name, and what is missing."""
    places: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        places.setdefault(name, []).append(number)
    found, missing = [], []
    for name in names:
        if places.get(name):
            found.append(places[name].pop(0))
        else:
            missing.append(name)
    return found, missing


def prompts_for(data: ImageData, trained: TaskInfo | None) -> tuple[str, ...]:
    """The run's prompts go with the run; only other classes that bring prompts of their own are scored by these."""
    if trained is None:
        return data.templates
    same = set(trained.classes) <= set(data.classes)
    shift = catalog.is_shift(data.name, data.classes, trained.name, trained.classes)
    own = data.templates != (DEFAULT_TEMPLATE,) and not (same or shift)
    return data.templates if own else trained.templates


def as_before(record: Record, path: Path) -> Record:
    """The record with what a grid knows about the one that is there: label, role and where the recipe comes from."""
    with contextlib.suppress(DataError):
        old = Record.read(path)
        named = replace(record.method, label=old.method.label)
        return replace(record, method=named, role=old.role or record.role, settings=old.settings)
    return record


def what_was_scored(record: Record, data: ImageData, classes: Sequence[int]) -> Iterator[str]:
    """Lines for people: images of ``classes`` found and left out, and the prompts."""
    about = record.data
    found = about.images + about.seen + len(about.skipped)
    yield (
        f"{about.subset}: {found} test images found, {about.seen} left out as the run has seen them in training or "
        f"validation, {len(about.skipped)} unreadable; {about.images} scored"
    )
    trained = record.training.task.domains if record.training else ()
    sources = sorted({domain for domain in data.splits["train"].domains if domain})
    if trained and sources and list(trained) != sources:
        here = ", ".join(sources)
        yield f"the run was trained on domain {', '.join(trained)}, and training images are of {here} here: --sources"
    chosen = set(classes)
    every = sum(label in chosen for label in data.splits["test"].labels)
    if every > found:
        yield f"{every - found} test images of other domains are left out: --domain, one of {', '.join(data.domains)}"
    yield from (f"skipped {key}: {reason}" for key, reason in about.skipped)
    own = "" if about.templates == data.templates else f" (the data's own: {_quoted(data.templates)})"
    yield f"prompts: {_quoted(about.templates)}{own}"


def _compared(data: ImageData, trained: TaskInfo | None) -> str:
    """The note where the classes of ``data`` are not those of the run."""
    if trained is None or set(data.classes) == set(trained.classes):
        return ""
    if catalog.is_shift(data.name, data.classes, trained.name, trained.classes):
        known = catalog.find(trained.name)  # the run may have seen a half of its classes
        return scored_among(len(data.classes), max(len(trained.classes), known.classes if known else 0))
    both = len(set(data.classes) & set(trained.classes))
    return (
        f"{both} of its {len(data.classes)} classes were trained on, of the run's {len(trained.classes)}."
        if both
        else ""
    )


def _quoted(templates: tuple[str, ...]) -> str:
    shown = ", ".join(f'"{template}"' for template in templates[:3])
    return shown if len(templates) <= 3 else f"{shown} and {len(templates) - 3} more"
