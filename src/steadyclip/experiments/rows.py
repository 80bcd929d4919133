"""One row of a table, as it is typed: ``lora``, or ``lora[rank=4,layers=q:v,epochs=5]``.

A key is looked up among the method's knobs, then the fields of ``Recipe``, then those fields of ``TrainConfig`` that
change what is trained. Several values of one knob are separated by ``:``. The text is the row's label everywhere.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steadyclip.core.errors import UsageError, nearest
from steadyclip.experiments.settings import PUBLISHED, Settings
from steadyclip.methods import get_method
from steadyclip.methods.base import Method, convert
from steadyclip.methods.recipe import Recipe
from steadyclip.training.config import DECIDES, TrainConfig

_TRAINING = set(DECIDES) - {"seed"}
_LENGTHS = ("steps", "steps_per_shot", "epochs")


@dataclass(frozen=True)
class Row:
    """A method with its knobs and how it is trained.

    ``recipe`` is None where nothing is trained by gradient steps, ``config`` holds changes of ``TrainConfig``, and
    ``settings`` says where recipe and changes come from, for the record.
    """

    label: str
    method: Method
    recipe: Recipe | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: str = PUBLISHED.name

    @property
    def learns(self) -> bool:
        """There is something to train, by gradient steps or from frozen features."""
        return self.recipe is not None or self.method.head.solves


def parse_rows(words: Iterable[str], settings: Settings = PUBLISHED) -> list[Row]:
    """The rows of a table: each word is one, or several separated by commas.

    Raises:
        UsageError: none, one twice, or one that ``parse_row`` refuses.
    """
    specs = [spec.strip() for word in words for spec in re.split(r",(?![^\[]*\])", word) if spec.strip()]
    rows = [parse_row(spec, settings) for spec in specs]
    if not rows:
        raise UsageError("no method was given: `steadyclip methods` lists them.")
    seen: dict[str, str] = {}
    for row in rows:
        content = repr(dataclasses.replace(row, label=""))
        if content in seen:
            same = "is given twice" if seen[content] == row.label else f"is the same training as {seen[content]!r}"
            raise UsageError(f"row {row.label!r} {same}: leave one out.")
        seen[content] = row.label
    return rows


def parse_row(spec: str, settings: Settings = PUBLISHED) -> Row:
    """The row ``method`` or ``method[key=value,...]``, on top of what ``settings`` choose for the method.

    Raises:
        UsageError: malformed, or an unknown method, key or value; one line with the nearest name.
    """
    match = re.fullmatch(r"([^\[\]=,\s]+)(?:\[([^\[\]]*)\])?", spec.strip())
    if not match:
        raise UsageError(f"row {spec!r} must be a method, or method[key=value,key=value], as in lora[rank=4].")
    name, changes = match[1], _pairs(spec, match[2] or "")
    cls = type(get_method(name))
    choice = settings.choices.get(name)
    kinds = {
        "knob": {f.name: typing.get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)},
        "recipe": typing.get_type_hints(Recipe),
        "config": {key: kind for key, kind in typing.get_type_hints(TrainConfig).items() if key in _TRAINING},
    }
    found: dict[str, dict[str, Any]] = {"knob": {}, "recipe": {}, "config": {}}
    for key, text in changes.items():
        where = next((where for where, known in kinds.items() if key in known), None)
        if where is None:
            known = [key for each in kinds.values() for key in each]
            raise UsageError(
                f"row {spec!r}: {key!r} is neither a knob of {name} nor a setting of its training."
                f"{nearest(key, known)} `steadyclip methods {name}` lists the knobs."
            )
        kind = kinds[where][key]
        found[where][key] = convert(name, key, text.replace(":", ",") if _takes_several(kind) else text, kind)
    row = Row(
        re.sub(r"\s", "", spec),
        get_method(name, {**(choice.knobs if choice else {}), **found["knob"]}),
        _recipe(spec, choice.recipe if choice else cls.recipe, found["recipe"]),
        {**settings.config, **found["config"]},
        settings.name if choice else PUBLISHED.name if cls.recipe else "",
    )
    TrainConfig(**row.config).check()
    return row


def _pairs(spec: str, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"row {spec!r}: {part!r} must be key=value; several values are separated by a colon.")
        if key in pairs:
            raise UsageError(f"row {spec!r}: {key!r} is given twice.")
        pairs[key] = value
    return pairs


def _recipe(spec: str, recipe: Recipe | None, changes: dict[str, Any]) -> Recipe | None:
    from steadyclip.training.schedule import check_recipe

    if not changes:
        return recipe
    if recipe is None:
        raise UsageError(f"row {spec!r}: nothing is trained by gradient steps, {', '.join(changes)} changes nothing.")
    lengths = [name for name in _LENGTHS if changes.get(name) is not None]
    if len(lengths) > 1:
        raise UsageError(f"row {spec!r}: give one of {' and '.join(lengths)}.")
    recipe = dataclasses.replace(recipe, **(dict.fromkeys(_LENGTHS) if lengths else {}) | changes)
    check_recipe(recipe)
    return recipe


def _takes_several(kind: Any) -> bool:
    return tuple in (typing.get_origin(kind), *map(typing.get_origin, typing.get_args(kind)))
