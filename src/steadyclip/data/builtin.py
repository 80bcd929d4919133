"""Data sets that an installed distribution brings along, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.extensions import DATA, extensions, load_extension


@dataclass(frozen=True)
class BuiltIn:
    """A data set with a name of its own: what an entry point of the group ``steadyclip.data`` refers to."""

    table: Callable[[], Path]
    """Returns the path of its .parquet table, which it makes first if need be."""
    targets: tuple[str, ...] = ()
    """Data sets that a method trained on this one is scored on as well, where the user names none."""
    generic_prompt: bool = False
    """Its own prompt says no more than "an image of": no other is scored beside it."""


def builtin_names() -> tuple[str, ...]:
    """Names that ``find_builtin`` takes."""
    return tuple(extensions(DATA))


def find_builtin(name: str | Path) -> BuiltIn | None:
    """The built-in data set ``name``; a ``Path`` is never one."""
    return load_extension(DATA, name, BuiltIn) if isinstance(name, str) else None
