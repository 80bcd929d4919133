"""Rows: a method and how it is trained, as one line, ``orthcr[l1=2,epochs=5,cutout=0.5]``.

The same line means the same for `train`, `bench`, `evaluate`, a file of rows and ``parse_row``. A key is a knob of the
method or of one of its pieces, a field of ``Recipe``, or one of those fields of ``TrainConfig`` that a method may want
otherwise; no two of them share a name. Commas within brackets or quotes separate nothing; colons separate the values of
a knob that takes several. The line, less its spaces, is the row's label everywhere.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.files import expanded, slug
from steadyclip.experiments.settings import PUBLISHED, Settings
from steadyclip.methods import Method, Recipe, get_method
from steadyclip.methods.compose import TEXTS, Composed
from steadyclip.methods.knobs import convert, knobs_of, with_knobs
from steadyclip.training.config import DECIDES, TrainConfig, check_recipe

RECIPE: Mapping[str, Any] = typing.get_type_hints(Recipe)
"""Keys of every row that change the recipe, with their types."""
TRAINING: Mapping[str, Any] = {
    key: kind for key, kind in typing.get_type_hints(TrainConfig).items() if key in {*DECIDES, "cache"} - {"seed"}
}
"""Keys of every row that change how the training is run, with their types."""
_LENGTHS = ("steps", "steps_per_shot", "epochs")
_QUOTED = r""""[^"]*"|'[^']*'"""


@dataclass(frozen=True)
class Row:
    """A method with its knobs and how it is trained.

    Attributes:
        label: the row as it was typed, less its spaces.
        method: with its knobs.
        recipe: None where nothing is trained by gradient steps.
        config: changes of ``TrainConfig``.
        given: the settings that the row was parsed with.
    """

    label: str
    method: Method
    recipe: Recipe | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    given: Settings = field(default=PUBLISHED, repr=False, compare=False)

    @property
    def settings(self) -> str:
        """Where the recipe comes from, for the record; "" where there is none."""
        if self.method.name in self.given.choices:
            return self.given.name
        return PUBLISHED.name if self.recipe else ""

    @property
    def file(self) -> str | None:
        """``path/to/mine.py:Mine``, where the method comes from a file."""
        name = self.label.partition("[")[0]
        return name if ".py:" in name else None

    @property
    def says_how_long(self) -> bool:
        """The row itself sets the number of steps or epochs."""
        inside = self.label.partition("[")[2].removesuffix("]")
        return any(part.partition("=")[0].strip() in _LENGTHS for part in _split(inside) or ())

    @property
    def slug(self) -> str:
        """The label as a name for a folder."""
        name, bracket, changes = self.label.partition("[")
        return slug(name.rpartition("/")[2] + bracket + changes)

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process parses the row anew: the class of a method from a file has no module to import it from."""
        return parse_row, (self.label, self.given)


def parse_rows(words: Iterable[str], settings: Settings = PUBLISHED) -> list[Row]:
    """The rows of a table. Each word is one, or several separated by commas, or ``@FILE``: a text file with a row in
    each line, where ``#`` begins a comment.

    Raises:
        UsageError: none, one twice, a file that cannot be read, or a row that ``parse_row`` refuses; a row of a file
            is named by file and line.
    """
    rows: dict[str, Row] = {}
    for place, text in _texts(words):
        try:
            row = parse_row(text, settings)
        except UsageError as error:
            raise UsageError(f"{place}{error}") from None
        content = repr(dataclasses.replace(row, label=""))
        if content in rows:
            other = rows[content].label
            same = "is given twice" if other == row.label else f"is the same training as {other!r}"
            raise UsageError(f"row {row.label!r} {same}: leave one out.")
        rows[content] = row
    if not rows:
        raise UsageError("no method was given: `steadyclip methods` lists them.")
    return list(rows.values())


def parse_row(text: str, settings: Settings = PUBLISHED) -> Row:
    """The row ``method`` or ``method[key=value,...]``.

    Args:
        text: as in ``lora[rank=4,layers=q:v,epochs=5]``, ``path/to/mine.py:Mine[rank=4]`` or
            ``compose[adapters=Orthogonal()+LowRank(),objective=CrossEntropy()+1.5*Consistency(cross=True)]``.
        settings: what the row changes, for the model that it is meant for (``settings_for``).

    Raises:
        UsageError: malformed, or an unknown method, key or value; one line with the nearest name.
    """
    text = text.strip()
    match = re.fullmatch(r"([^\[\]=,\s][^\[\]=,]*)(?:\[(.*)\])?", text, re.DOTALL)
    parts = _split(match[2] or "") if match else None
    if not match or parts is None:
        raise UsageError(
            f"row {text!r} must be a method, or method[key=value,key=value] with brackets and quotes in pairs, as in "
            "lora[rank=4,layers=q:v]."
        )
    label = re.sub(rf"({_QUOTED})|(?<!\w)\s+|\s+(?!\w)", lambda found: found[1] or "", text)
    try:
        return Row(label, *_read(match[1].strip(), pairs(parts), settings), settings)
    except UsageError as error:
        raise UsageError(f"row {text!r}: {error}" if match[2] else str(error)) from None


def _read(name: str, changes: dict[str, str], settings: Settings) -> tuple[Method, Recipe | None, dict[str, Any]]:
    """Method, recipe and changes of ``TrainConfig``."""
    method = get_method(name)
    if isinstance(method, Composed):  # its pieces come first: they decide which knobs there are
        method = get_method(name, {key: changes.pop(key) for key in TEXTS if key in changes})
    choice = settings.choices.get(method.name)
    knobs, trained = knobs_of(method), {**RECIPE, **TRAINING}
    known = {*knobs, *(knob.rpartition(".")[2] for knob in knobs)}
    if shared := known & trained.keys():
        raise UsageError(f"{method.name} has a knob {min(shared)!r}, as each training has: rename that of the method.")
    for key in changes.keys() - known - trained.keys():
        if "." not in key:
            raise UsageError(
                f"{key!r} is neither a knob of {name} nor a setting of its training."
                f"{nearest(key, [*known, *trained])} `steadyclip methods {name}` lists the knobs."
            )
    method = with_knobs(method, choice.knobs if choice else {})
    method = with_knobs(method, {key: text for key, text in changes.items() if key not in trained})
    values = {key: convert(name, key, text, trained[key]) for key, text in changes.items() if key in trained}
    recipe = {key: value for key, value in values.items() if key in RECIPE}
    config = {key: value for key, value in values.items() if key in TRAINING}
    if method.recipe is None and (idle := [*recipe, *(config.keys() - {"precision"} if not method.learns else ())]):
        raise UsageError(f"nothing is trained by gradient steps, {', '.join(idle)} changes nothing.")
    config = {**settings.config, **config}
    TrainConfig(**config).check()
    return method, _recipe(choice.recipe if choice else method.recipe, recipe), config


def _recipe(recipe: Recipe | None, changes: dict[str, Any]) -> Recipe | None:
    if recipe is None or not changes:
        return recipe
    if any(changes.get(name) is not None for name in _LENGTHS):
        changes = {**dict.fromkeys(_LENGTHS), **changes}
    try:
        recipe = dataclasses.replace(recipe, **changes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_recipe(recipe)
    return recipe


def _texts(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(where it stands, for messages; row) pairs."""
    for word in words:
        if not word.startswith("@"):
            yield from (("", part) for part in _split(word) or [word])
            continue
        file = word[1:]
        try:
            lines = expanded(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"the file of rows {file} cannot be read: {reason}.") from None
        for number, line in enumerate(lines, 1):
            if row := re.sub(rf"({_QUOTED})|#.*", lambda found: found[1] or "", line).strip():
                yield f"{file}, line {number}: ", row


def _split(text: str) -> list[str] | None:
    """The parts of ``text`` between commas that no bracket and no quote encloses; None if these are not in pairs."""
    parts, start, expected = [], 0, ""
    for found in re.finditer(rf"{_QUOTED}|[][(){{}},\"']", text):
        mark = found[0]
        if mark in "([{":
            expected += {"(": ")", "[": "]", "{": "}"}[mark]
        elif mark == "," and not expected:
            parts.append(text[start : found.start()])
            start = found.end()
        elif mark in ")]}" and expected.endswith(mark):
            expected = expected[:-1]
        elif mark in ")]}\"'":
            return None
    parts.append(text[start:])
    return None if expected else [part.strip() for part in parts if part.strip()]


def pairs(parts: Iterable[str]) -> dict[str, str]:
    """``["rank=4"]`` as ``{"rank": "4"}``; a value may stand in quotes.

    Raises:
        UsageError: a part without ``=``, or a key given twice.
    """
    found: dict[str, str] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"{part!r} must be key=value; several values are separated by a colon.")
        if key in found:
            raise UsageError(f"{key!r} is given twice.")
        found[key] = value[1:-1] if re.fullmatch(_QUOTED, value) else value
    return found
