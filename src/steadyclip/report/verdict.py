"""The verdict on a run, in three sentences: better or not, what it cost on the rest, and what to do next.

It is made from records alone: those of the run and those of the frozen model on the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.core.words import counted
from steadyclip.evaluation.forgetting import held_out, same_test
from steadyclip.evaluation.paired import Difference, change, unpacked
from steadyclip.evaluation.records import Record, Run, load_records
from steadyclip.report.cells import grouped, signed
from steadyclip.training.run import digest

Outcome = Literal["better", "worse", "not told apart", "not measured"]
UNMOVED = 0.9995
"""Mean cosine to the frozen features, of images and of prompts, from which on nothing was learned."""
_CEILING = 97.0
"""Accuracy of the frozen model, in percent, above which there is little to gain."""

_WIDE = 10.0
"""Percent points that may be lost on the rest, by the interval, before the advice says so."""

Pair = tuple[Record, Record]
"""The frozen model and the run on the same test."""


@dataclass(frozen=True)
class Side:
    """What became of the images of one side: of what was trained on, or of the rest.

    Attributes:
        outcome: one of four; "not told apart" if the interval of the difference holds 0.
        images: that were scored.
        before, after: top-1 accuracy in percent of the frozen model and of the run.
        difference: in percent points, with its paired 95 % interval; None if it was not measured.
        reason: why it was not measured.
        pairs: the records behind it.
    """

    outcome: Outcome
    images: int = 0
    before: float = 0.0
    after: float = 0.0
    difference: Difference | None = None
    reason: str = ""
    pairs: tuple[Pair, ...] = ()

    @property
    def numbers(self) -> str:
        """``71.7 → 88.3 % (+16.7, 95 % interval +6.7 to +26.7)``."""
        assert self.difference is not None
        d = self.difference
        interval = f"95 % interval {signed(d.low)} to {signed(d.high)}"
        return f"{self.before:.1f} \N{RIGHTWARDS ARROW} {self.after:.1f} % ({signed(d.mean)}, {interval})"


@dataclass(frozen=True)
class Verdict:
    """What to think of a run.

    Attributes:
        own: the images of what was trained on.
        rest: what was not trained on: new classes, other data, other domains.
        unmoved: the features are still those of the frozen model.
        sentences: three: own, rest, what to do next.
        notes: what a reader must know beside them, such as images that were left out.
    """

    run: Run
    own: Side
    rest: Side
    unmoved: bool
    sentences: tuple[str, str, str]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentences and notes, each on a line."""
        return "\n".join([*self.sentences, *self.notes])

    def require(self, better: bool, max_loss: float | None) -> None:
        """Holds the run to a standard, for scripts.

        Args:
            better: it must be better on what was trained on.
            max_loss: percent points that it may lose on the rest; the lower end of the interval must be above that, so
                that few images of the rest do not pass for a proof.

        Raises:
            SteadyClipError: it falls short; the message says of what.
        """
        failed = []
        if better and self.own.outcome != "better":
            failed.append(f"it must be better on what it was trained on, and the verdict is: {self.own.outcome}")
        if max_loss is not None and self.rest.difference is None:
            failed.append(f"it may lose {max_loss:g} points on the rest, which was not measured")
        elif max_loss is not None and self.rest.difference and self.rest.difference.low < -max_loss:
            d = self.rest.difference
            hint = "" if d.mean < -max_loss else f"; {self.rest.images} images cannot exclude a greater loss, give more"
            failed.append(
                f"it may lose {max_loss:g} points on the rest, and the change is {signed(d.mean)} (95 % interval "
                f"{signed(d.low)} to {signed(d.high)}){hint}"
            )
        if failed:
            raise SteadyClipError(f"{self.run.method.label} falls short: {'; '.join(failed)}.")


def verdict(run: str | Path | Iterable[Record]) -> Verdict | None:
    """The verdict on a run: its folder, or records of it and of the frozen model on the same images.

    A training on all classes may come with a second one by the same method on the first half of them (``steadyclip
    tune``): then the second says what the rest loses.

    Returns:
        None if the records are of no training, of several, or of no image that the frozen model was scored on too.

    Raises:
        DataError: the folder holds no record.
    """
    records = load_records(run) if isinstance(run, str | Path) else list(run)
    records = [record for record in records if record.wise_alpha is None]
    of_run = _trainings(records)
    if not of_run:
        return None
    main = of_run[0]
    training = main[0].training
    assert training is not None
    frozen = [record for record in records if record.training is None and record.method.name == "zero-shot"]
    own = _side(_own(main), frozen, "it was not scored on images of what it was trained on")
    if own.outcome == "not measured" and not own.reason:
        return None
    other = [record for records in of_run for record in records if _of_the_rest(record)]
    only = "it knows no names but those that it was trained on" if training.method.own_classes else ""
    rest = _side(other, frozen, only)
    unmoved = _unmoved(main)
    first = _first(own, unmoved)
    by_half = any(r.training != training for r in other)
    second = _second(rest, training, by_half)
    third = _advice(own, rest, unmoved, training)
    return Verdict(training, own, rest, unmoved, (first, second, third), tuple(_notes(own, rest, by_half)))


def _trainings(records: Sequence[Record]) -> list[list[Record]]:
    """The records by training: one, or that on all classes and its like on base; [] where it is not clear which."""
    groups = grouped((r for r in records if r.training), lambda r: digest(r)).values()
    found = sorted(groups, key=lambda of: of[0].training is not None and of[0].training.task.subset != "all")
    if len(found) == 2:
        whole, half = (of[0].training for of in found)
        assert whole is not None
        assert half is not None
        like = (whole.method, whole.model, whole.task.subset) == (half.method, half.model, "all")
        return found if like and half.task.subset == "base" else []
    return found if len(found) == 1 else []


def _own(records: Sequence[Record]) -> list[Record]:
    """The newest evaluation on what was trained on; one of the data of the training before one of others."""
    found = [record for record in records if not _of_the_rest(record)]
    same = [r for r in found if r.training and r.training.task.name == r.data.name]
    newest = max(same or found, key=lambda r: r.created, default=None)
    return [newest] if newest else []


def _of_the_rest(record: Record) -> bool:
    return held_out(record) or record.role == "ood"


def _side(records: Sequence[Record], frozen: Sequence[Record], missing: str) -> Side:
    """One side from the records of a run on it; of several evaluations of one test set the newest counts."""
    if not records:
        return Side("not measured", reason=missing)
    records = [max(of, key=lambda r: r.created) for of in grouped(records, lambda r: r.data.place).values()]
    pairs: list[Pair] = []
    for record in records:
        if record.metrics is None:
            return Side("not measured", reason=record.reason or "")
        like = [f for f in frozen if same_test(f, record) and f.precision == record.precision and f.correct]
        if like and record.correct:
            pairs.append((like[-1], record))
    if not pairs:
        return Side("not measured")
    before_N, after_N = (np.concatenate([unpacked(p[i].correct, p[i].data.images) for p in pairs]) for i in (0, 1))
    groups: list[int] = []
    for _, record in pairs:
        own = [int(number) for number in record.groups.split()] or range(record.data.images)
        first = max(groups, default=-1) + 1
        groups += [first + number for number in own]
    difference = change(before_N, after_N, groups)
    outcome = "not told apart" if not difference.sure else "better" if difference.mean > 0 else "worse"
    before, after = (float(100 * each.mean()) for each in (before_N, after_N))
    return Side(outcome, len(before_N), before, after, difference, pairs=tuple(pairs))


def _unmoved(records: Sequence[Record]) -> bool:
    """The features of all towers are where the frozen model has them, and the method has no head of its own."""
    moved = [record.drift for record in records if record.drift]
    lowest = min((min(drift.image.cosine, drift.text.cosine) for drift in moved), default=0.0)
    return lowest >= UNMOVED


# ---- sentences


def _first(own: Side, unmoved: bool) -> str:
    if own.difference is None:
        return f"On your own images nothing can be said: {own.reason.rstrip('.')}."
    said = {
        "better": "better",
        "worse": "worse",
        "not told apart": "nothing was learned that these images can show",
    }[own.outcome]
    if unmoved and own.outcome == "not told apart":
        said = f"nothing was learned, the features are still those of the frozen model ({_cosines(own)})"
    return f"On your {counted(own.images, 'test image')}: {own.numbers}: {said}."


def _cosines(side: Side) -> str:
    drift = side.pairs[0][1].drift
    return f"mean cosine {min(drift.image.cosine, drift.text.cosine):.4f}" if drift else "mean cosine 1"


def _second(rest: Side, training: Run, by_half: bool) -> str:
    if rest.difference is None and rest.reason:
        return f"On the rest it cannot be used: {rest.reason.rstrip('.')}."
    if rest.difference is None:
        return "The rest was not measured: give steadyclip evaluate other data with --rest."
    names = list(dict.fromkeys(record.data.name for _, record in rest.pairs))
    what = "the rest"
    if by_half:
        classes = sum(len(record.data.classes) for _, record in rest.pairs)
        what = f"{classes} of your classes that were held out of a second training with the same settings"
    elif all(record.data.subset == "new" for _, record in rest.pairs):
        what = f"{counted(sum(len(record.data.classes) for _, record in rest.pairs), 'class')} that were not trained on"
    elif names != [training.task.name]:
        what = f"the rest, {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
    said = {
        "better": "better there, too",
        "worse": "that is the cost",
        "not told apart": "no loss that these images can show",
    }[rest.outcome]
    return f"On {what} ({counted(rest.images, 'image')}): {rest.numbers}: {said}."


def _advice(own: Side, rest: Side, unmoved: bool, training: Run) -> str:
    if own.difference is None:
        return "Score it on images of the classes that it was trained on."
    less = "train fewer steps or with a lower learning rate"
    if own.outcome == "worse":
        return f"Do not use it: {less}, and look at the classes that became worse on the page."
    if own.outcome == "better":
        if rest.outcome == "worse":
            return (
                f"Use it only where nothing but these {len(training.task.classes)} classes is asked for; to lose less, "
                f"{less}, or take a method that keeps more (docs/methods.md)."
            )
        if rest.difference is None:
            other = "" if rest.reason else ", and measure the rest before you ask for other names"
            return f"Use it for the classes that it was trained on{other}."
        if rest.difference.low < -_WIDE:
            most = f"{-rest.difference.low:.0f} points"
            return f"Use it; but the images of the rest are few, and a loss of up to {most} there would not show."
        return "Use it."
    seen = (own.difference.high - own.difference.low) / 2
    more = f"{counted(own.images, 'test image')} cannot show a change below about {max(1, round(seen))} points"
    if rest.outcome == "worse":
        return f"Do not use it: it costs something on the rest, and {more}."
    if own.before >= _CEILING:
        return f"Keep the frozen model: it names {own.before:.1f} % of them right, and there is little to gain."
    if unmoved:
        return "Keep the frozen model, or train longer or with a larger learning rate."
    return f"Keep the frozen model, or give more images: {more}."


def _notes(own: Side, rest: Side, by_half: bool) -> Iterable[str]:
    """What was left out, and what single data sets of the rest lost."""
    if by_half:
        yield "Base and new are of that second training; the result itself is in the table of all classes."
    for _, record in own.pairs:
        if record.data.seen:
            every = record.data.images + record.data.seen
            yield (
                f"{record.data.seen} of {every} test images were left out, as the same images were trained or "
                "validated on: your folders hold images twice."
            )
        if record.note:
            yield record.note
    if len(rest.pairs) > 1:
        single = [(_side([after], [before], ""), after.data.name) for before, after in rest.pairs]
        for side, name in single:
            if side.outcome == "worse":
                yield f"Worse on {name}: {side.numbers}."


def need_verdict(records: Sequence[Record]) -> Verdict:
    """As ``verdict``; raises DataError where there is none."""
    found = verdict(records)
    if found is None:
        raise DataError(
            "a verdict needs the records of one training and of the frozen model on the same images: steadyclip "
            "evaluate RUN writes both."
        )
    return found
