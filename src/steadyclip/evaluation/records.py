"""One evaluation = one JSON record. Tables, plots and pages are made from records only.

A record says everything that its numbers depend on: model and weights hash, method and knobs, training settings, data
and split hash, templates, seed, versions and commit. Accuracies are fractions; times are seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic

SCHEMA = 1
KIND = "evaluation"


@dataclass(frozen=True)
class ModelInfo:
    """The pretrained model: its name as given to ``load``, its family, and the hash of its pretrained weights."""

    name: str
    family: str
    weights_hash: str


@dataclass(frozen=True)
class MethodInfo:
    """The method; ``label`` is its name followed by the knobs that are not at their defaults."""

    name: str
    knobs: dict[str, Any]
    label: str


@dataclass(frozen=True)
class DataInfo:
    """The test images: ``hash`` is over their keys, labels and classes; ``skipped`` lists (key, reason)."""

    name: str
    subset: str
    domain: str | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    images: int
    hash: str
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Metrics:
    """Fractions in [0, 1]; ``interval95`` is the bootstrap interval of ``top1`` over test images."""

    top1: float
    mean_per_class: float
    ece: float
    interval95: tuple[float, float]


@dataclass(frozen=True)
class TowerDrift:
    """Trained against frozen features of one tower: linear CKA and mean cosine, 1 where nothing moved."""

    cka: float
    cosine: float


@dataclass(frozen=True)
class Drift:
    """``image`` over the test images, ``text`` over the prompts of their classes."""

    image: TowerDrift
    text: TowerDrift


@dataclass(frozen=True)
class ClassScore:
    """Images of one class, and how many were classified right."""

    name: str
    images: int
    correct: int


@dataclass(frozen=True)
class Example:
    """One wrongly classified image; ``thumbnail`` is a base64 PNG of at most 64 pixels a side."""

    key: str
    thumbnail: str


@dataclass(frozen=True)
class Confusion:
    """``count`` images of the class ``true`` were taken for ``predicted``."""

    true: str
    predicted: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Record:
    """One evaluation. ``metrics`` is None, and ``reason`` says why, when the method cannot classify among the names.

    ``training`` is the run as the trainer described it, None for a method that was not trained; ``images_per_second``
    is None when no image was encoded (features came from the cache, or there was nothing to score). ``drift`` is None
    where it was not measured; ``wise_alpha`` is the share of the trained weights where they were averaged with the
    pretrained ones; ``precision`` is the arithmetic of the scoring. Records of a grid also have ``settings``, where the
    recipe comes from, and the ``role`` of the test images beside those of training: "id" more of the same, "ood" the
    same classes elsewhere, "transfer" other classes.
    """

    created: str
    versions: dict[str, str]
    commit: str | None
    model: ModelInfo
    method: MethodInfo
    training: dict[str, Any] | None
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
    schema: int = SCHEMA
    kind: str = KIND

    def to_json(self) -> str:
        """The record as JSON text, schema and kind first."""
        fields = dataclasses.asdict(self)
        ordered = {"schema": fields.pop("schema"), "kind": fields.pop("kind"), **fields}
        return json.dumps(ordered, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the record in one step: a reader never sees half of it."""
        write_atomic(Path(path), self.to_json().encode())
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record in the file ``path``.

        Raises:
            DataError: not there, not JSON, another kind or schema, or a field missing, unknown or of the wrong type.
        """
        return _record(Path(path), _parse(Path(path)))


def load_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Records from files and folders, in a stable order, each file once.

    A file must be a record. In a folder every JSON file below it is looked at, and those of another kind (a run, a
    split) are left out.

    Raises:
        DataError: a path that is not there, a broken record, or no record at all.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    records: dict[Path, Record] = {}
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(path.rglob("*.json")):
                content = _parse(file)
                if isinstance(content, dict) and content.get("kind") == KIND:
                    records[file.resolve()] = _record(file, content)
        else:
            records[path.resolve()] = Record.read(path)
    if not records:
        where = ", ".join(map(str, paths)) or "no path given"
        raise DataError(f"no evaluation record found ({where}): `steadyclip evaluate` writes them.")
    return list(records.values())


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # bad JSON or bad UTF-8
        raise DataError(f"{path} is not a JSON file ({error}): evaluate again, or remove it.") from error


def _record(path: Path, content: Any) -> Record:
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DataError(f"{path} is not an evaluation record (field 'kind' is not {KIND!r}).")
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{path}: field 'schema' is {content.get('schema')!r} and this version reads {SCHEMA}: "
            "evaluate again, or use the version that wrote it."
        )
    try:
        record = _decode(content, Record, "")
        _check(record)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return record


def _check(record: Record) -> None:
    """What types cannot say."""
    if (record.metrics is None) == (record.reason is None):
        raise ValueError("exactly one of the fields 'metrics' and 'reason' must be null.")
    if record.metrics is not None:
        m = record.metrics
        values = {"top1": m.top1, "mean_per_class": m.mean_per_class, "ece": m.ece}
        values |= {"interval95[0]": m.interval95[0], "interval95[1]": m.interval95[1]}
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise ValueError(f"field 'metrics.{name}' must be a fraction from 0 to 1, is {value}.")


_SPELLED = {str: "text", int: "a whole number", float: "a finite number"}


def _decode(value: Any, kind: Any, where: str) -> Any:
    """``value`` (parsed JSON) as ``kind``; ``where`` is the field's name in messages.

    Raises:
        ValueError: one line that names the field.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):  # here always "something or null"
        (some,) = [option for option in options if option is not types.NoneType]
        return None if value is None else _decode(value, some, where)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(_expect(value, dict, "an object", where), kind, where)
    if origin is dict:
        items = _expect(value, dict, "an object", where)
        return {key: _decode(item, options[1], f"{where}.{key}") for key, item in items.items()}
    if origin is tuple:
        items = _expect(value, list, "a list", where)
        kinds = [options[0]] * len(items) if options[-1] is Ellipsis else options
        if len(items) != len(kinds):
            raise ValueError(f"field {where!r} must have {len(kinds)} items, has {len(items)}.")
        return tuple(_decode(item, k, f"{where}[{i}]") for i, (item, k) in enumerate(zip(items, kinds, strict=True)))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"field {where!r} must be {_SPELLED[kind]}, is {reprlib.repr(value)}.")
    return value


def _decode_fields(content: dict[str, Any], kind: Any, where: str) -> Any:
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, field in fields.items():
        if name not in content and field.default is dataclasses.MISSING:
            raise ValueError(f"field {prefix + name!r} is missing.")
    for name in content:
        if name not in fields:
            raise ValueError(f"field {prefix + name!r} is unknown to schema {SCHEMA}.")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(value, hints[name], prefix + name) for name, value in content.items()})


def _expect(value: Any, kind: type, spelled: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"field {where!r} must be {spelled}, is {reprlib.repr(value)}.")
    return value


def scored_among(own: int, trained: int) -> str:
    """The note on a test set that has ``own`` of the ``trained`` classes and is scored among those only; "" for all."""
    return f"scored among its own {own} of {trained} classes." if own < trained else ""
