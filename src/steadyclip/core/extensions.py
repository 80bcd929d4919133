"""What installed distributions add to the library, found through entry points.

An entry point is a line of a distribution's metadata: ``icons = "steadyclip_lab.data_sets:ICONS"`` in the group
``steadyclip.data``. Reading these lines imports nothing; what a line names is imported when it is asked for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

DATA = "steadyclip.data"
"""Name of a data set -> ``data.builtin.BuiltIn``."""
MODELS = "steadyclip.models"
"""Name of a model -> its folder (a ``Path``), or a function that returns it."""
POOLS = "steadyclip.pools"
"""Name of a table of image-text pairs -> function that returns its ``Path``."""
RECIPES = "steadyclip.recipes"
"""Name of a model -> ``experiments.settings.Settings``: how methods are trained on it."""
METHODS = "steadyclip.methods"
"""Name of a method -> its class."""
COMMANDS = "steadyclip.commands"
"""Name of a command -> its dataclass; ``data.build`` is the action `build` of the command `data`."""

_LAB = {
    DATA: (
        "icons", "icon-concepts", "icon-animals", "icon-food", "icon-transport", "icon-nature", "icon-objects",
        "icon-symbols",
    ),
    MODELS: ("icons-tiny",),
    POOLS: ("icons",),
    RECIPES: ("icons-tiny",),
    COMMANDS: ("pretrain", "data.build"),
}  # fmt: skip
"""What steadyclip-lab has. Known here so that a user who asks for it without having it is told where to get it."""


@functools.cache
def extensions(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point, of all installed distributions; nothing is imported.

    Where two distributions use one name, the one that comes first in the alphabet has it, and a line says so.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other is not point:
            kept, left = sorted((other, point), key=distribution)
            found[point.name] = kept
            both = f"{distribution(kept)} and {distribution(left)}"
            _warn(f"{both} both bring {point.name!r} ({group}): that of {distribution(kept)} is used")
    return found


@functools.cache
def load_extension(group: str, name: str, expected: type = object) -> Any:
    """What the entry point ``name`` names, imported; None if there is none.

    One that cannot be imported, or is not an ``expected``, counts as none, and one line on standard error names the
    distribution: a broken extension must not keep anybody from the rest.
    """
    point = extensions(group).get(name)
    if point is None:
        return None
    try:
        found = point.load()
        if isinstance(found, expected):
            return found
        why = f"{point.value} is {type(found).__name__}, not {expected.__name__}"
    except Exception as error:  # an import runs a stranger's code, which can raise anything
        text = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    _warn(f"{distribution(point)} is broken, and its {name!r} ({group}) is left out: {why}")
    return None


def absent(group: str, name: str) -> str | None:
    """Where ``name`` would come from and what to do, to end a message with; None for a name that nobody knows."""
    if name in _LAB.get(group, ()):
        source, how = "steadyclip-lab", "pip install ./lab in a checkout of steadyclip"
    elif name in extensions(group):
        source = distribution(extensions(group)[name])
        how = f"pip install --force-reinstall {source}"
    else:
        return None
    broken = "is broken" if name in extensions(group) else "is not installed"
    return f"it comes with {source}, which {broken}: {how}"


def distribution(point: EntryPoint) -> str:
    """The name of the distribution that ``point`` belongs to."""
    return point.dist.name if point.dist else "an unknown distribution"


@functools.cache  # once is enough
def _warn(line: str) -> None:
    print(f"warning: {line}.", file=sys.stderr)
