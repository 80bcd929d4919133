"""What installed distributions add to the library, found through entry points.

An entry point is a line of a distribution's metadata: ``icons = "steadyclip_lab.data_sets:ICONS"`` in the group
``steadyclip.data``. Reading these lines imports nothing; what a line names is imported when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from steadyclip.core.progress import warn

DATA = "steadyclip.data"
"""Name of a data set -> ``data.builtin.BuiltIn``."""
SUITES = "steadyclip.suites"
"""Name of several data sets -> ``data.suites.Suite``."""
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
        "icons", "lab-clutter", "lab-colored", "lab-effects", "lab-faces", "lab-food", "lab-logos", "lab-night",
        "lab-people", "lab-robust", "lab-robust-travel", "lab-sketch", "lab-things", "lab-travel", "lab-wild",
    ),
    SUITES: ("suite", "suite-dev", "suite-report"),
    MODELS: ("icons-small",),
    POOLS: ("lab-pool",),
    RECIPES: ("icons-small",),
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
        kept, left = sorted((found.get(point.name, point), point), key=distribution)
        found[point.name] = kept
        if kept is not left:
            first, second = distribution(kept), distribution(left)
            warn(f"{first} and {second} both bring {point.name!r} ({group}): that of {first} is used")
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
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    warn(f"{distribution(point)} is broken, and its {name!r} ({group}) is left out: {why}")
    return None


def absent(group: str, name: str) -> str | None:
    """Where ``name`` would come from and what to do, to end a message with; None for a name that nobody knows."""
    point = extensions(group).get(name)
    why = "is broken" if point else "is not installed"
    if name in _LAB.get(group, ()):
        return f"it comes with steadyclip-lab, which {why}: pip install ./lab in a checkout of steadyclip"
    if point:
        return f"it comes with {distribution(point)}, which {why}: pip install --force-reinstall {distribution(point)}"
    return None


def distribution(point: EntryPoint) -> str:
    """The name of the distribution that ``point`` belongs to."""
    return point.dist.name if point.dist else "an unknown distribution"
