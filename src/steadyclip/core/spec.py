"""Values: frozen dataclasses that need no decorator, so that a method file reads like its paper."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from steadyclip.core.errors import UsageError

if not TYPE_CHECKING and sys.version_info >= (3, 11):
    from typing import dataclass_transform
else:  # type checkers know this name at every version of Python
    from typing_extensions import dataclass_transform


KNOWN: dict[str, type[Spec]] = {}
"""Class name -> the value class last defined under it: what can be spelled as text (see ``methods.compose``)."""


@dataclass_transform(frozen_default=True)
class Spec:
    """Base of everything that is a value: methods, adapters, heads, terms, views, reads.

    A subclass is a frozen dataclass without saying so. An assignment without a type (``adapters = (...)``) gives an
    inherited field a new default, which plain dataclasses would ignore without a word. Equal fields make equal values.

    Attributes:
        spelled: the class is a piece that texts may name.
    """

    spelled: ClassVar[bool] = True

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declared = inspect.get_annotations(cls)
        own = dict(declared)
        for base in cls.__mro__[1:]:
            for name, field in getattr(base, "__dataclass_fields__", {}).items():
                if name in cls.__dict__ and name not in own and field._field_type is dataclasses._FIELD:  # type: ignore[attr-defined]
                    own[name] = field.type
        cls.__annotations__ = own
        dataclasses.dataclass(frozen=True)(cls)
        cls.__annotations__ = declared  # an inherited type is a text that means something in its own module only
        if cls.spelled:
            KNOWN[cls.__name__] = cls

    def require(self, knob: str, holds: bool, range_: str) -> None:
        """For ``__post_init__``: a clear line when a knob is out of its range.

        Raises:
            UsageError: ``holds`` is False.
        """
        if not holds:
            value = getattr(self, knob)
            shown = str(value) if isinstance(value, Path) else repr(value)
            raise UsageError(f"knob {knob}={shown} of {piece_name(type(self))!r} must be {range_}.")


def piece_name(cls: type) -> str:
    """How a piece is called in messages and rows: its ``name``, or the class name in snake case."""
    return getattr(cls, "name", "") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def replace(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of ``value`` in which the field (or tuple position) at ``path`` is ``new``."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, tuple):
        return tuple(replace(item, tuple(rest), new) if i == key else item for i, item in enumerate(value))
    return dataclasses.replace(value, **{key: replace(getattr(value, key), tuple(rest), new)})
