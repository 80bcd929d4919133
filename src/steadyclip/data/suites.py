"""Suites: data sets that are benchmarked together, under one name."""

from __future__ import annotations

from dataclasses import dataclass

from steadyclip.core.extensions import SUITES, extensions, load_extension


@dataclass(frozen=True)
class Suite:
    """Names of data sets for `steadyclip bench`: what an entry point of the group ``steadyclip.suites`` refers to.

    Attributes:
        members: what base-to-new and few-shot train on, one after the other.
        cross: what cross-dataset trains on, followed by its targets; by default those of that data set.
        shifts: the same for domain-generalization and robust.
    """

    members: tuple[str, ...]
    cross: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()


_ELEVEN = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "flowers102", "food101", "fgvc_aircraft", "sun397", "dtd",
    "eurosat", "ucf101",
)  # fmt: skip
_OF_THE_FIELD = {
    "eleven": Suite(_ELEVEN, _ELEVEN, ("imagenet", "imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r"))
}
"""CoOp's data sets (Zhou et al. 2022), and CoCoOp's targets of ImageNet."""


def suite_names() -> tuple[str, ...]:
    """Names that ``find_suite`` takes."""
    return (*_OF_THE_FIELD, *extensions(SUITES))


def find_suite(name: str) -> Suite | None:
    """The suite ``name``; None if there is none."""
    return _OF_THE_FIELD.get(name) or load_extension(SUITES, name, Suite)
