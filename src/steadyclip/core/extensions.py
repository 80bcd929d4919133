"""What installed packages add, through entry points. Nothing of them is imported before it is asked for."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any


@functools.cache
def extensions(group: str) -> dict[str, EntryPoint]:
    """The entry points of ``group`` by name."""
    return {point.name: point for point in entry_points(group=group)}


@functools.cache
def load_extension(group: str, name: str) -> Any:
    """What the entry point gives, or None where it cannot be imported, which one line on standard error says."""
    point = extensions(group)[name]
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.value
        print(f"warning: {package} is broken and left out ({type(error).__name__}: {error})", file=sys.stderr)
        return None
