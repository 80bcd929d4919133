"""Knobs: the plain fields of a method and of its pieces, under flat names. One declaration each; everything else that
shows, types or records them is derived here."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.spec import Spec, piece_name, replace

S = TypeVar("S", bound=Spec)

PIECES = ("adapters", "head", "average")
"""Fields of a method that hold pieces with knobs of their own."""
_SWITCH = {**dict.fromkeys(["true", "on", "yes", "1"], True), **dict.fromkeys(["false", "off", "no", "0"], False)}
_PLAIN = (int, float, bool, str, Path, type(None))

KnobPath = tuple[str | int, ...]


def knob_paths(method: Spec) -> dict[str, KnobPath]:
    """Flat knob -> path of the field: the method's own first, then those of its pieces.

    A name that two pieces share is ``piece.name``; others are bare.

    Raises:
        UsageError: two pieces of one kind, which no name tells apart.
    """
    paths: dict[str, KnobPath] = {name: (name,) for name in _plain_fields(type(method))}
    qualified = _qualified(method)
    count = Counter([*paths, *(path[-1] for path in qualified.values())])
    return paths | {str(path[-1]) if count[path[-1]] == 1 else name: path for name, path in qualified.items()}


def with_knobs(method: S, values: Mapping[str, Any]) -> S:
    """``method`` with other knobs; values may be texts, as typed on a command line.

    Raises:
        UsageError: an unknown or ambiguous knob, or a value that does not fit.
    """
    for knob, value in values.items():
        path = _find(method, knob)
        method = replace(method, path, convert(piece_name(type(method)), knob, value, _kind(method, path)))
    return method


def knob_kinds(method: Spec) -> dict[str, Any]:
    """Flat knob -> its type."""
    return {knob: _kind(method, path) for knob, path in knob_paths(method).items()}


def read_path(value: Any, path: KnobPath) -> Any:
    """What stands at ``path``."""
    for key in path:
        value = value[key] if isinstance(key, int) else getattr(value, key)
    return value


def knob_help(method: Spec) -> dict[str, str]:
    """Flat knob -> the text that stands below its declaration."""
    found = {knob: (type(read_path(method, path[:-1])), path[-1]) for knob, path in knob_paths(method).items()}
    return {knob: _texts_below(cls).get(str(field), "") for knob, (cls, field) in found.items()}


def convert(owner: str, knob: str, value: Any, kind: Any) -> Any:
    """``value``, maybe as typed on a command line, as ``kind``: literals, numbers, booleans, tuples, unions of them.

    Raises:
        UsageError: it does not fit.
    """
    wrong = UsageError(f"knob {knob}={value!r} of method {owner!r} must be {_spell(kind)}.")
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value in options:
            return value
        raise wrong
    if origin is tuple:
        parts = value.replace(":", ",").split(",") if isinstance(value, str) else list(value)
        return tuple(convert(owner, knob, part, options[0]) for part in parts)
    if options:  # a union: the first member that takes the value
        if value in (None, "none") and type(None) in options:
            return None
        for option in (option for option in options if option is not type(None)):
            with contextlib.suppress(UsageError):
                return convert(owner, knob, value, option)
        raise wrong
    try:
        return _SWITCH[str(value).lower()] if kind is bool else kind(value)
    except (KeyError, TypeError, ValueError):
        raise wrong from None


def takes_several(kind: Any) -> bool:
    """Whether values of the type are tuples, which are typed with colons in a row."""
    return tuple in (typing.get_origin(kind), *map(typing.get_origin, typing.get_args(kind)))


def _find(method: Spec, knob: str) -> KnobPath:
    paths, qualified, owner = knob_paths(method), _qualified(method), piece_name(type(method))
    if path := paths.get(knob) or qualified.get(knob):
        return path
    if several := [name for name in qualified if name.endswith(f".{knob}")]:
        raise UsageError(f"knob {knob!r} of method {owner!r} belongs to several pieces: write {' or '.join(several)}.")
    raise UsageError(
        f"method {owner!r} has no knob {knob!r}.{nearest(knob, paths)} `steadyclip methods {owner}` lists them."
    )


def _qualified(method: Spec) -> dict[str, KnobPath]:
    """``piece.knob`` -> path of the field."""
    paths: dict[str, KnobPath] = {}
    for field in PIECES:
        value = getattr(method, field, None)
        places = [(field, i) for i in range(len(value))] if isinstance(value, tuple) else [(field,)] if value else []
        for place in places:
            piece = type(read_path(method, place))
            new: dict[str, KnobPath] = {f"{piece_name(piece)}.{name}": (*place, name) for name in _plain_fields(piece)}
            if new.keys() & paths.keys():
                raise UsageError(
                    f"{piece_name(type(method))!r} has two pieces {piece_name(piece)!r}: make a subclass of one, so "
                    "that it has a name."
                )
            paths |= new
    return paths


def _plain_fields(cls: type) -> list[str]:
    hints = typing.get_type_hints(cls)
    return [f.name for f in dataclasses.fields(cls) if _is_plain(hints[f.name])]


def _is_plain(kind: Any) -> bool:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return True
    if origin in (tuple, typing.Union, types.UnionType):
        return all(_is_plain(option) for option in options if option is not Ellipsis)
    return kind in _PLAIN


def _kind(method: Spec, path: KnobPath) -> Any:
    return typing.get_type_hints(type(read_path(method, path[:-1])))[str(path[-1])]


def _texts_below(cls: type) -> dict[str, str]:
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


def _spell(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if options:
        return " or ".join(_spell(o) for o in options if o is not Ellipsis)
    words = {Path: "a file", int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    return words.get(kind, "text")
