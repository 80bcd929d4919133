"""How small and large numbers may be that a user gives: part of the type of the option, checked before work starts."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from steadyclip.core.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """From ``least`` to ``most``, both included; ``above`` leaves ``least`` itself out. Never nan or infinity."""

    least: float
    most: float = math.inf
    above: bool = False

    def check(self, name: str, value: float) -> None:
        """Raises UsageError, with ``name`` and ``value``, where the value is beyond the limits."""
        low = self.least < value if self.above else self.least <= value
        if low and value <= self.most and math.isfinite(value):
            return
        must = f"at most {self.most:,}" if low and math.isfinite(self.most) else str(self)
        flag = name.startswith("--")
        raise UsageError(f"{name} must be {must}, not {value}." if flag else f"{name}={value} must be {must}.")

    def __str__(self) -> str:
        return f"more than {self.least:,}" if self.above else f"{self.least:,} or more"


BatchSize = Annotated[int, Limits(1, 2**20)]
Workers = Annotated[int, Limits(0, 256)]
"""Processes or threads."""
Seed = Annotated[int, Limits(0, 2**63 - 1)]
Count = Annotated[int, Limits(1, 10**9)]
"""Of steps, images, names."""
Number = Annotated[int, Limits(0, 10**9)]
"""As ``Count``, or none."""
Size = Annotated[int, Limits(1, 2**16)]
"""A side in pixels, a width, a number of blocks: what memory is taken for."""
Share = Annotated[float, Limits(0, 1)]
Minutes = Annotated[float, Limits(0, 10**6, above=True)]


def check_limits(owner: Any, spelled: str = "{}") -> None:
    """See that the numbers in the fields of a dataclass are within the ``Limits`` of their types.

    Args:
        owner: its types may be optional, or tuples.
        spelled: how a field is called in errors; "--{}" for flags, which have hyphens.

    Raises:
        UsageError: one is not.
    """
    for name, kind in typing.get_type_hints(type(owner), include_extras=True).items():
        for limits in _limits(kind):
            value = getattr(owner, name)
            shown = spelled.format(name.replace("_", "-") if spelled.startswith("--") else name)
            for number in value if isinstance(value, tuple | list) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    limits.check(shown, number)


def _limits(kind: Any) -> Iterator[Limits]:
    yield from (each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Limits))
    for inner in typing.get_args(kind):
        yield from _limits(inner)
