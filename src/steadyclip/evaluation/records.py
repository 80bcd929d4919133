"""One evaluation = one JSON record. Tables, plots and pages are made from records only.

A record says everything that its numbers depend on: model and weights hash, method and knobs, the run it was trained
by, data and content hash, templates, seed, versions and commit. Accuracies are fractions; times are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from steadyclip.core.errors import DataError
from steadyclip.core.schema import Document, parse
from steadyclip.evaluation.run import MethodInfo, ModelInfo, Run, Skipped

Place = tuple[str, str, str | None]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class DataInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The test images: ``hash`` is over the images themselves, labels and classes; ``skipped`` lists (key, reason)."""

    name: str
    subset: str
    domain: str | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    images: int
    hash: str
    skipped: Skipped

    @property
    def place(self) -> Place:
        """Which test set of the data it is."""
        return self.name, self.subset, self.domain

    @property
    def test(self) -> tuple[Place, tuple[str, ...]]:
        """What was scored: images, and by which prompts."""
        return self.place, self.templates


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fractions in [0, 1]; ``interval95`` is the bootstrap interval of ``top1`` over test images."""

    top1: Fraction
    mean_per_class: Fraction
    ece: Fraction
    interval95: tuple[Fraction, Fraction]


class TowerDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trained against frozen features of one tower: linear CKA and mean cosine, 1 where nothing moved."""

    cka: float
    cosine: float


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``image`` over the test images, ``text`` over the prompts of their classes."""

    image: TowerDrift
    text: TowerDrift


class ClassScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images of one class, and how many were classified right."""

    name: str
    images: int
    correct: int


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wrongly classified image; ``thumbnail`` is a base64 PNG of at most 64 pixels a side."""

    key: str
    thumbnail: str


class Confusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``count`` images of the class ``true`` were taken for ``predicted``."""

    true: str
    predicted: str
    count: int
    examples: tuple[Example, ...]


class Record(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One evaluation. ``metrics`` is None, and ``reason`` says why, when the method cannot classify among the names.

    ``training`` is the run, None for a method that was not trained; ``images_per_second`` is None when no image was
    encoded (features came from the cache, or there was nothing to score). ``drift`` is None where it was not measured;
    ``wise_alpha`` is the share of the trained weights where they were averaged with the pretrained ones; ``precision``
    is the arithmetic of the scoring. Records of a grid also have ``settings``, where the recipe comes from, and the
    ``role`` of the test images beside those of training: "id" more of the same, "ood" the same classes elsewhere,
    "transfer" other classes.
    """

    SCHEMA: ClassVar[int] = 2
    KIND: ClassVar[str] = "evaluation"
    SPELLED: ClassVar[str] = "an evaluation record"
    REDO: ClassVar[str] = "evaluate again"

    schema: Literal[2] = 2
    kind: Literal["evaluation"] = "evaluation"
    created: str
    versions: dict[str, str]
    commit: str | None
    model: ModelInfo
    method: MethodInfo
    training: Run | None
    data: DataInfo
    shots: int | None
    seed: int | None
    metrics: Metrics | None
    reason: str | None
    per_class: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    seconds: float
    images_per_second: float | None
    note: str = ""
    drift: Drift | None = None
    settings: str = ""
    role: str = ""
    wise_alpha: float | None = None
    precision: str = "fp32"

    @classmethod
    def from_content(cls, content: Any, path: str | Path) -> Record:
        """As ``Document.from_content``; also what types cannot say."""
        record = super().from_content(content, path)
        if (record.metrics is None) == (record.reason is None):
            raise DataError(f"{path}: exactly one of the fields 'metrics' and 'reason' must be null: {cls.REDO}.")
        return record


def load_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Records from files and folders, in a stable order, each file once.

    A file must be a record. In a folder every JSON file below it is looked at, and those of another kind (a run, a
    split) are left out.

    Raises:
        DataError: a path that is not there, a broken record or one of version 0.x, or no record at all.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    records: dict[Path, Record] = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            content = parse(file, Record.REDO)
            if file == path or (isinstance(content, dict) and content.get("kind") == Record.KIND):
                records[file.resolve()] = Record.from_content(content, file)
    if not records:
        where = ", ".join(map(str, paths)) or "no path given"
        raise DataError(f"no evaluation record found ({where}): `steadyclip evaluate` writes them.")
    return list(records.values())


def scored_among(own: int, trained: int) -> str:
    """The note on a test set that has ``own`` of the ``trained`` classes and is scored among those only; "" for all."""
    return f"scored among its own {own} of {trained} classes." if own < trained else ""
