"""Protocols: what each row of a table is trained on, and which test sets are scored then.

Source of the first four: CoOp (Zhou et al. 2022) and CoCoOp (Zhou et al. 2022); of the last, WiSE-FT (Wortsman et al.
2022) and FLYP (Goyal et al. 2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steadyclip.core.errors import DataError, UsageError, nearest
from steadyclip.data.sampling import Subset

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.experiments.rows import Row

ProtocolName = Literal["base-to-new", "few-shot", "cross-dataset", "domain-generalization", "robust"]
Role = Literal["id", "ood", "transfer"]
"""A test set beside the training images: more of the same, the same classes in another domain, or other classes."""
GENERIC = ("a photo of a {}.",)
"""Prompts of the robust protocol for data sets of other classes."""


@dataclass(frozen=True)
class Source:
    """A data set; the fields are as for ``load_data``."""

    name: str
    templates: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()


@functools.lru_cache(maxsize=64)
def open_data(source: Source, root: Path | None = None) -> ImageData:
    """The data set, listed once in each process; ``root`` is the folder with the data sets of the catalog."""
    from steadyclip.data import load_data

    return load_data(source.name, templates=source.templates, root=root, sources=source.sources)


@dataclass(frozen=True)
class Target:
    """Test images to score. With ``domain`` None, those of the domains that are trained on; with ``wise_alpha``, they
    are scored with the average of trained and pretrained weights (WiSE-FT)."""

    data: Source
    subset: Subset = "all"
    domain: str | None = None
    role: Role = "id"
    wise_alpha: float | None = None


@dataclass(frozen=True)
class Sample:
    """What is trained on, except for the seed; ``shots`` None takes every training image."""

    data: Source
    subset: Subset = "all"
    shots: int | None = None


@dataclass(frozen=True)
class Cell:
    """One training and everything that is scored with its result. A row that learns nothing has ``seed`` None."""

    row: Row
    sample: Sample
    seed: int | None
    tests: tuple[Target, ...]

    @property
    def title(self) -> str:
        """The cell in messages."""
        if self.seed is None:
            return f"{self.row.label}, {self.sample.data.name}"
        shots = "all images" if self.sample.shots is None else f"{self.sample.shots}-shot"
        subset = "" if self.sample.subset == "all" else f" {self.sample.subset}"
        return f"{self.row.label}, {self.sample.data.name}{subset}, {shots}, seed {self.seed}"


Plan = list[tuple[Sample, tuple[Target, ...]]]
"""What each row is trained on, with the tests of that training. Plans can be concatenated."""


def base_to_new(data: Sequence[str], shots: int = 16) -> Plan:
    """Train on the first half of the classes; score on both halves, each among its own names."""
    return [
        (Sample(home, "base", shots), (Target(home, "base"), Target(home, "new", role="transfer")))
        for home in map(Source, data)
    ]


def few_shot(data: Sequence[str], shots: Sequence[int] = (1, 2, 4, 8, 16)) -> Plan:
    """Train on all classes with more and more images; score on them."""
    return [(Sample(home, shots=count), (Target(home),)) for home in map(Source, data) for count in shots]


def from_source(
    source: Source,
    shots: int | None = 16,
    domains: Sequence[str] = (),
    shifted: Sequence[str] = (),
    others: Sequence[str] = (),
    prompts: tuple[str, ...] | None = None,
    own: tuple[str, ...] | None = None,
) -> Plan:
    """Train on all classes of ``source``; score on it and elsewhere: the last three protocols.

    Args:
        source: the data set to train on.
        shots: training images per class; None takes all.
        domains: further domains of the source.
        shifted: data sets of the same classes, scored with the templates of the source.
        others: data sets of other classes.
        prompts: templates for ``others``; None takes their own.
        own: templates of ``source`` where it names none.
    """
    tests = (
        Target(source),
        *(Target(source, domain=domain, role="ood") for domain in domains),
        *(Target(Source(name, source.templates or own), role="ood") for name in shifted),
        *(Target(Source(name, prompts), role="transfer") for name in others),
    )
    return [(Sample(source, shots=shots), tests)]


def make_plan(
    protocol: ProtocolName,
    data: Sequence[str],
    targets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    sources: Sequence[str] = (),
    root: Path | None = None,
) -> Plan:
    """The plan of a protocol, as the options of `steadyclip bench` give it.

    Args:
        protocol: which one.
        data: what to train on; one data set for protocols with targets. The name of a suite stands for its data sets.
        targets: domains of the source, or other data sets: those without a class of their own are the source under
            shift, the others are transfer. By default all other domains, and what a built-in data set brings along.
        shots: training images per class; by default the field's.
        sources: domains to train on; by default those that have training images.
        root: folder with the data sets of the catalog.

    Raises:
        UsageError: the protocol takes one source, or one number of shots, or needs targets.
    """
    data, targets = _spelled_out(protocol, data, targets)
    if sources and protocol not in ("domain-generalization", "robust"):
        raise UsageError(f"{protocol} knows no domains: --sources belongs to domain-generalization and robust.")
    if targets and protocol in ("base-to-new", "few-shot"):
        raise UsageError(f"{protocol} has no targets: name every data set with --data.")
    if protocol == "few-shot":
        return few_shot(data, shots) if shots else few_shot(data)
    count, *more = shots or [16]
    if more or (protocol == "robust" and shots):
        what = "every training image" if protocol == "robust" else "one number of shots"
        raise UsageError(
            f"{protocol} takes {what}: leave --shots {' '.join(map(str, shots or ()))} out, or run few-shot."
        )
    if protocol == "base-to-new":
        return base_to_new(data, count)
    if len(data) > 1:
        raise UsageError(f"{protocol} trains on one data set: name the others with --targets.")
    source = Source(data[0], sources=tuple(sources))
    return _around(protocol, source, targets, count, root)


def _spelled_out(
    protocol: ProtocolName, data: Sequence[str], targets: Sequence[str] | None
) -> tuple[list[str], Sequence[str] | None]:
    """Data and targets with the data sets of a suite in the place of its name."""
    from steadyclip.data.suites import find_suite

    found: list[str] = []
    for name in data:
        suite = find_suite(name)
        if suite is None:
            found.append(name)
        elif protocol in ("base-to-new", "few-shot"):
            found += suite.members
        else:
            source, *others = (suite.cross if protocol == "cross-dataset" else suite.shifts) or [""]
            if not source:
                raise UsageError(f"{name} does not say what {protocol} trains on: name one of its data sets.")
            found.append(source)
            targets = others if targets is None and others else targets
    return list(dict.fromkeys(found)), targets


def _target(name: str, source: ImageData, root: Path | None) -> ImageData:
    """The data set ``name``; where it is none, the error names the domains of the source, too."""
    try:
        return open_data(Source(name), root)
    except DataError as error:
        if Path(name).exists() or not source.domains:
            raise
        raise DataError(
            f"--targets {name}: not a domain of {source.name}.{nearest(name, source.domains)} Its domains: "
            f"{', '.join(source.domains)}. Nor a data set: {error}"
        ) from None


def _around(
    protocol: ProtocolName, source: Source, targets: Sequence[str] | None, shots: int, root: Path | None
) -> Plan:
    from steadyclip.data.builtin import find_builtin
    from steadyclip.data.catalog import is_shift
    from steadyclip.data.prompts import imagenet_80

    opened, builtin = open_data(source, root), find_builtin(source.name)
    home = set(opened.splits["train"].domains)
    if own := next((target for target in targets or () if target == source.name or target in home), None):
        raise UsageError(f"--targets {own}: that is what is trained on, and is scored beside the targets anyway.")
    if targets is None:
        domains = [domain for domain in opened.domains if domain not in home]
        shifted, others = [], list(builtin.targets if builtin else ())
    else:
        domains = [target for target in targets if target in opened.domains]
        shifted, others = [], []
        for target in targets:
            if target not in domains:
                data = _target(target, opened, root)
                same = is_shift(data.name, data.classes, opened.name, opened.classes)
                (shifted if same else others).append(target)
    if protocol == "cross-dataset":
        if not shifted and not others:
            raise UsageError(f"cross-dataset needs data sets to score on: --targets, beside --data {source.name}.")
        return from_source(source, shots, others=[*shifted, *others])
    if protocol == "domain-generalization" and targets and others:
        raise UsageError(f"{others[0]} has other classes than {source.name}: that is cross-dataset, not {protocol}.")
    if not domains and not shifted:
        raise UsageError(f"{protocol} needs other domains of {source.name}, or data sets with its classes: --targets.")
    if protocol == "domain-generalization":
        return from_source(source, shots, domains, shifted, own=opened.templates)
    templates = imagenet_80() if opened.name == "ImageNet" else None
    prompts = None if builtin and builtin.generic_prompt else GENERIC
    source = dataclasses.replace(source, templates=templates)
    return from_source(source, None, domains, shifted, others, prompts, opened.templates)


def cells(plan: Plan, rows: Sequence[Row], seeds: Sequence[int], wise_alphas: Sequence[float] = ()) -> list[Cell]:
    """The cells of a table: all rows of the first seed, then of the next. Nothing is trained twice.

    The seed is that of the sample and of the training, as in the field. A row that learns nothing is scored once. Rows
    that can be averaged with the pretrained model are also scored at each of ``wise_alphas``.
    """
    found: dict[tuple[str, Sample, int | None], Cell] = {}
    for seed in seeds:
        for sample, tests in plan:
            for row in rows:
                if row.method.learns:
                    alphas = wise_alphas if row.method.averages else ()
                    curve = (dataclasses.replace(test, wise_alpha=alpha) for alpha in alphas for test in tests)
                    cell = Cell(row, sample, seed, (*tests, *curve))
                else:
                    cell = Cell(row, Sample(sample.data), None, tests)
                key = row.label, cell.sample, cell.seed
                if key in found:
                    cell = dataclasses.replace(cell, tests=tuple(dict.fromkeys((*found[key].tests, *cell.tests))))
                found[key] = cell
    return list(found.values())
