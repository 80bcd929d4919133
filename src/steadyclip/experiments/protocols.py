"""Protocols: which trainings and which test sets make a table. Each yields cells; ``grid`` runs them.

Source of the first four: CoOp (Zhou et al. 2022) and CoCoOp (Zhou et al. 2022); of the last, WiSE-FT (Wortsman et al.
2022) and FLYP (Goyal et al. 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from steadyclip.data.sampling import Subset

if TYPE_CHECKING:
    from steadyclip.experiments.rows import Row

Role = Literal["id", "ood", "transfer"]
"""A test set beside what was trained on: more of the same, the same classes in another domain, or other classes."""


@dataclass(frozen=True)
class Source:
    """A data set: ``name``, ``templates`` (None: own) and ``sources`` (domains to train on) as for ``load_data``."""

    name: str
    templates: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Test images to score; ``domain`` None takes those that are trained on. With ``wise_alpha`` they are scored with
    the average of trained and pretrained weights (WiSE-FT)."""

    data: Source
    subset: Subset = "all"
    domain: str | None = None
    role: Role = "id"
    wise_alpha: float | None = None


@dataclass(frozen=True)
class Sample:
    """What is trained on, but for the seed: ``shots`` None takes every training image."""

    data: Source
    subset: Subset = "all"
    shots: int | None = None


@dataclass(frozen=True)
class Cell:
    """One training and all that is scored with its result. A row that learns nothing has ``seed`` None."""

    row: Row
    sample: Sample
    seed: int | None
    tests: tuple[Target, ...]

    @property
    def title(self) -> str:
        """For people."""
        if self.seed is None:
            return f"{self.row.label}, {self.sample.data.name}"
        shots = "all images" if self.sample.shots is None else f"{self.sample.shots}-shot"
        subset = "" if self.sample.subset == "all" else f" {self.sample.subset}"
        return f"{self.row.label}, {self.sample.data.name}{subset}, {shots}, seed {self.seed}"


@dataclass(frozen=True)
class Protocol:
    """Base of the protocols. A subclass says in ``plan`` what is trained on and what is scored then."""

    name: ClassVar[str]

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        """What each row is trained on, with the tests of that training."""
        raise NotImplementedError

    def cells(self, rows: Sequence[Row], seeds: Sequence[int], wise_alphas: Sequence[float] = ()) -> list[Cell]:
        """The cells of the table: all rows of the first seed, then of the next. The seed is that of the sample and of
        the training, as in the field. A row that learns nothing is scored once. Rows that train the model's own weights
        are also scored at each of ``wise_alphas``."""
        found = []
        for seed in seeds:
            for sample, tests in self.plan():
                for row in rows:
                    if row.method.learns:
                        alphas = wise_alphas if row.method.own_weights else ()
                        curve = (dataclasses.replace(test, wise_alpha=alpha) for alpha in alphas for test in tests)
                        found.append(Cell(row, sample, seed, (*tests, *curve)))
                    else:
                        found.append(Cell(row, dataclasses.replace(sample, subset="all", shots=None), None, tests))
        return merged(found)


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of the same training as one, with the tests of all of them: nothing is trained twice."""
    found: dict[tuple[str, Sample, int | None], Cell] = {}
    for cell in cells:
        key = cell.row.label, cell.sample, cell.seed
        if key in found:
            cell = dataclasses.replace(cell, tests=tuple(dict.fromkeys((*found[key].tests, *cell.tests))))
        found[key] = cell
    return list(found.values())


@dataclass(frozen=True)
class BaseToNew(Protocol):
    """Train on the first half of the classes, score on both halves, each among its own names."""

    name = "base-to-new"

    data: tuple[str, ...]
    shots: int | None = 16

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        for data in map(Source, self.data):
            yield Sample(data, "base", self.shots), (Target(data, "base"), Target(data, "new", role="transfer"))


@dataclass(frozen=True)
class FewShot(Protocol):
    """Train on all classes with ever more images, score on them."""

    name = "few-shot"

    data: tuple[str, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        for data in map(Source, self.data):
            for shots in self.shots:
                yield Sample(data, shots=shots), (Target(data),)


@dataclass(frozen=True)
class CrossDataset(Protocol):
    """Train on all classes of the source; score, unchanged, on other data sets with their own names and templates."""

    name = "cross-dataset"

    source: str
    targets: tuple[str, ...]
    shots: int | None = 16

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        source = Source(self.source)
        targets = (Target(Source(target), role="transfer") for target in self.targets)
        yield Sample(source, shots=self.shots), (Target(source), *targets)


@dataclass(frozen=True)
class DomainGeneralization(Protocol):
    """Train on the source, or on its domains ``sources``; score on the same classes elsewhere: in other ``domains``,
    and in other data sets."""

    name = "domain-generalization"

    source: str
    domains: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    shots: int | None = 16
    sources: tuple[str, ...] = ()

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        source = Source(self.source, sources=self.sources)
        yield Sample(source, shots=self.shots), (Target(source), *shifted(source, self.domains, self.targets))


@dataclass(frozen=True)
class RobustFineTuning(Protocol):
    """Train on every training image; score in distribution (ID), under shift (OOD), and on data sets of other classes
    with ``generic`` prompts (None: their own)."""

    name = "robust"

    source: str
    domains: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    zero_shot: tuple[str, ...] = ()
    templates: tuple[str, ...] | None = None
    generic: tuple[str, ...] | None = ("a photo of a {}.",)
    sources: tuple[str, ...] = ()

    def plan(self) -> Iterator[tuple[Sample, tuple[Target, ...]]]:
        source = Source(self.source, self.templates, self.sources)
        others = (Target(Source(name, self.generic), role="transfer") for name in self.zero_shot)
        yield Sample(source), (Target(source), *shifted(source, self.domains, self.targets), *others)


def shifted(source: Source, domains: Sequence[str], targets: Sequence[str]) -> list[Target]:
    """Tests under shift: domains of the source, then data sets of its classes, with the source's templates."""
    moved = [Target(source, domain=domain, role="ood") for domain in domains]
    return moved + [Target(Source(target, source.templates), role="ood") for target in targets]


PROTOCOLS = {cls.name: cls for cls in (BaseToNew, FewShot, CrossDataset, DomainGeneralization, RobustFineTuning)}
