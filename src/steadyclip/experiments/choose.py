"""From the words of a command to a protocol: what is scored where nothing was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steadyclip.core.errors import UsageError
from steadyclip.data.builtin import find_builtin
from steadyclip.data.catalog import is_shift
from steadyclip.data.prompts import imagenet_80
from steadyclip.experiments.protocols import (
    BaseToNew,
    CrossDataset,
    DomainGeneralization,
    FewShot,
    Protocol,
    RobustFineTuning,
    Source,
)

if TYPE_CHECKING:
    from steadyclip.data import ImageData


def choose(
    name: str,
    data: Sequence[str],
    open_data: Callable[[Source], ImageData],
    targets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    sources: Sequence[str] = (),
) -> Protocol:
    """The protocol ``name`` on ``data``.

    Args:
        name: one of ``PROTOCOLS``.
        data: what to train on; one for protocols with targets.
        open_data: how to load one.
        targets: domains of the source, or other data sets: those without a class of their own are the source under
            shift, the others are transfer. By default all other domains, and what a
            built-in data set says itself.
        shots: training images per class; by default the field's.
        sources: domains to train on; by default those that have training images.

    Raises:
        UsageError: the protocol takes one source, or one number of shots, or needs targets.
    """
    if not data:
        raise UsageError("no data was named: --data photos, for instance.")
    for flag, given in {"--data": data, "--targets": targets, "--sources": sources, "--shots": shots}.items():
        refuse_repeated(flag, given or ())
    if shots and min(shots) < 1:
        raise UsageError(f"--shots: shots must be 1 or more, not {min(shots)}.")
    few, taken = list(shots or [16]), tuple(sources)
    if taken and name not in (DomainGeneralization.name, RobustFineTuning.name):
        raise UsageError(f"{name} knows no domains: --sources belongs to domain-generalization and robust.")
    if targets and name in (FewShot.name, BaseToNew.name):
        raise UsageError(f"{name} has no targets: name every data set with --data.")
    if name == FewShot.name:
        return FewShot(tuple(data), tuple(shots) if shots else FewShot.shots)
    if len(few) > 1 or (name == RobustFineTuning.name and shots):
        what = "every training image" if name == RobustFineTuning.name else "one number of shots"
        raise UsageError(f"{name} takes {what}: leave --shots {' '.join(map(str, few))} out, or run few-shot.")
    if name == BaseToNew.name:
        return BaseToNew(tuple(data), few[0])
    if len(data) > 1:
        raise UsageError(f"{name} trains on one data set: name the others with --targets.")
    source = open_data(Source(data[0], sources=taken))
    domains, same, other = _sort(source, data[0], targets, open_data)
    if name == CrossDataset.name:
        if not other and not same:
            raise UsageError(f"cross-dataset needs data sets to score on: --targets, beside --data {data[0]}.")
        return CrossDataset(data[0], (*same, *other), few[0])
    if name == DomainGeneralization.name and targets and other:
        raise UsageError(f"{other[0]} has other classes than {data[0]}: that is cross-dataset, not {name}.")
    if not domains and not same:
        raise UsageError(f"{name} needs other domains of {data[0]}, or data sets with its classes: --targets.")
    if name == DomainGeneralization.name:
        return DomainGeneralization(data[0], domains, same, few[0], taken)
    builtin = find_builtin(data[0])
    generic = None if builtin and builtin.generic_prompt else RobustFineTuning.generic
    templates = imagenet_80() if source.name == "ImageNet" else None
    return RobustFineTuning(data[0], domains, same, other, templates, generic, taken)


def refuse_repeated(flag: str, values: Sequence[object]) -> None:
    """Raises UsageError naming the first of ``values`` that is given twice."""
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise UsageError(f"{flag}: {twice} is given twice, leave one out.")


def _sort(
    source: ImageData, spec: str, targets: Sequence[str] | None, open_data: Callable[[Source], ImageData]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Domains of the source, data sets of the same classes, data sets of others."""
    home = set(source.splits["train"].domains)
    if targets is None:
        builtin = find_builtin(spec)
        return tuple(d for d in source.domains if d not in home), (), builtin.targets if builtin else ()
    domains, same, other = [], [], []
    for target in targets:
        if target in source.domains:
            domains.append(target)
        else:
            data = open_data(Source(target))
            (same if is_shift(data.name, data.classes, source.name, source.classes) else other).append(target)
    return tuple(domains), tuple(same), tuple(other)
