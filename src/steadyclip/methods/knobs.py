"""Knobs: the plain fields of a method and of its pieces, under flat names. One declaration each; everything else that
shows, types or records them is derived here."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.spec import Spec, piece_name, replace

S = TypeVar("S", bound=Spec)

LARGEST = 10**9
"""No knob is a larger number."""
_BOOL = {**dict.fromkeys(["true", "on", "yes", "1"], True), **dict.fromkeys(["false", "off", "no", "0"], False)}
_WORDS = {Path: "a file", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "none",
          str: "text"}  # fmt: skip
"""Types of single values -> how messages call them."""


class _TooLarge(UsageError):
    """It is of the right type."""


@dataclass(frozen=True)
class Knob:
    """Where a knob is: the ``path`` of fields and positions from the method to it, its ``owner`` and its type."""

    path: tuple[str | int, ...]
    owner: type[Spec]
    kind: Any

    def value(self, method: Spec) -> Any:
        """What it is set to."""
        return _at(method, self.path)

    @property
    def help(self) -> str:
        """The text below its declaration."""
        return _texts_below(self.owner).get(str(self.path[-1]), "")


def knobs_of(method: Spec) -> dict[str, Knob]:
    """All knobs by flat name: the method's own first, then those of its pieces.

    A name that two of them share is ``piece.name`` for a piece; others are bare.

    Raises:
        UsageError: two pieces of one kind, which no name tells apart.
    """
    own, qualified = _fields(method, ()), _of_pieces(method)
    count = Counter([*own, *(knob.path[-1] for knob in qualified.values())])
    names = {name: str(knob.path[-1]) for name, knob in qualified.items()}
    return own | {names[name] if count[names[name]] == 1 else name: knob for name, knob in qualified.items()}


def with_knobs(method: S, values: Mapping[str, Any]) -> S:
    """``method`` with other knobs; values may be texts, as typed on a command line.

    Raises:
        UsageError: an unknown or ambiguous knob, or a value that does not fit.
    """
    owner = piece_name(type(method))
    for name, value in values.items():
        knobs, qualified = knobs_of(method), _of_pieces(method)
        knob = knobs.get(name) or qualified.get(name)
        if knob is None:
            if several := [full for full in qualified if full.endswith(f".{name}")]:
                write = " or ".join(several)
                raise UsageError(f"knob {name!r} of method {owner!r} belongs to several pieces: write {write}.")
            hint = f"{nearest(name, knobs)} `steadyclip methods {owner}` lists them."
            raise UsageError(f"method {owner!r} has no knob {name!r}.{hint}")
        method = replace(method, knob.path, convert(owner, name, value, knob.kind))
    return method


def convert(owner: str, knob: str, value: Any, kind: Any) -> Any:
    """``value``, maybe as typed on a command line, as ``kind``: literals, numbers, booleans, tuples, unions of them.

    Raises:
        UsageError: it does not fit.
    """
    wrong = UsageError(f"knob {knob}={value!r} of method {owner!r} must be {_spell(kind)}.")
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        parts = value.replace(":", ",").split(",") if isinstance(value, str) else value
        return tuple(convert(owner, knob, part, options[0]) for part in parts)
    if origin is typing.Literal and value in options:
        return value
    if origin in (typing.Union, types.UnionType):  # "none" is a text, too
        for option in sorted(options, key=lambda option: option is not types.NoneType):
            try:
                return convert(owner, knob, value, option)
            except _TooLarge:
                raise
            except UsageError:
                continue
    if kind in _WORDS:
        try:
            if kind is types.NoneType:
                return {None: None, "none": None}[value]
            if kind is bool:
                return _BOOL[str(value).lower()]
            made = kind(value)
            if isinstance(made, int | float) and abs(made) > LARGEST:
                raise _TooLarge(f"knob {knob}={value} of method {owner!r} must be at most {LARGEST:,}.")
            if made == made:  # nan is not
                return made
        except (KeyError, TypeError, ValueError):
            pass
    raise wrong


def _spell(kind: Any) -> str:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    return " or ".join(_spell(option) for option in options if option is not Ellipsis) or _WORDS[kind]


def _of_pieces(method: Spec) -> dict[str, Knob]:
    """``piece.knob`` -> knob, for all pieces."""
    places = [("adapters", i) for i in range(len(getattr(method, "adapters", ())))]
    places += [(field,) for field in ("head", "average") if getattr(method, field, None)]
    found: dict[str, Knob] = {}
    for place in places:
        piece = _at(method, place)
        name = piece_name(type(piece))
        new = {f"{name}.{field}": knob for field, knob in _fields(piece, place).items()}
        if new.keys() & found.keys():
            both = f"{piece_name(type(method))!r} has two pieces {name!r}"
            raise UsageError(f"{both}: make a subclass of one, so that it has a name.")
        found |= new
    return found


def _fields(piece: Spec, place: tuple[str | int, ...]) -> dict[str, Knob]:
    """The plain fields of the piece that stands at ``place``."""
    owner = type(piece)
    hints = typing.get_type_hints(owner)
    names = [field.name for field in dataclasses.fields(owner) if _is_plain(hints[field.name])]
    return {name: Knob((*place, name), owner, hints[name]) for name in names}


def _is_plain(kind: Any) -> bool:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, typing.Union, types.UnionType):
        return all(_is_plain(option) for option in options if option is not Ellipsis)
    return origin is typing.Literal or kind in _WORDS


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key] if isinstance(key, int) else getattr(value, key)
    return value


def _texts_below(cls: type[Spec]) -> dict[str, str]:
    texts = {}
    for owner in reversed(cls.__mro__[: cls.__mro__.index(Spec)]):
        try:
            definition = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, SyntaxError):  # defined without a file, as in a notebook cell that is gone
            continue
        for knob, below in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
            if isinstance(knob, ast.AnnAssign) and isinstance(knob.target, ast.Name) and isinstance(below, ast.Expr):
                texts[knob.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return texts
