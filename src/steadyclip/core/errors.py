"""Errors that a user can mend. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints


class SteadyClipError(Exception):
    """A user's mistake or a missing thing: one line that names the file, row or flag and says what to do.

    The command line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code: ClassVar[int] = 1


class OutOfMemory(SteadyClipError):
    """What was to be computed does not fit into the memory of the device."""


class UsageError(SteadyClipError):
    """The command was given wrong words (unknown method, knob, flag value)."""

    exit_code = 2


class DataError(SteadyClipError):
    """Something is wrong with the images, labels or split that were named."""


class ModelError(SteadyClipError):
    """A checkpoint cannot be used: not there, of another kind, or unsafe to read."""


def require(owner: object, field: str, holds: bool, must: str) -> None:
    """Raises UsageError, with the value of ``field``, unless it ``holds``."""
    if not holds:
        raise UsageError(f"{field}={getattr(owner, field)!r} must be {must}.")


def require_choices(owner: object) -> None:
    """Raises UsageError for a field whose type is a ``Literal`` and whose value is not one of it."""
    for field, kind in get_type_hints(type(owner)).items():
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            require(owner, field, getattr(owner, field) in choices, f"one of {', '.join(choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'lora'?"`` when something known is close to ``word``, else ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
