"""What the entry points refer to: the data sets by name, the pool, the models. Free of torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from steadyclip.data.builtin import BuiltIn
from steadyclip.data.suites import Suite
from steadyclip_lab.suite.building import built, built_pool

ICONS_SMALL = Path(__file__).parent / "weights" / "icons-small"
POOL = built_pool


def _lab_set(name: str, targets: tuple[str, ...] = ()) -> BuiltIn:
    # "an icon of a {}." is as general as a prompt can be
    return BuiltIn(partial(built, name), targets, generic_prompt=True)


_OTHER_CLASSES = ("lab-food", "lab-people", "lab-faces", "lab-travel", "lab-logos", "lab-effects", "lab-colored")
_SAME_OBJECTS = ("lab-wild", "lab-clutter", "lab-sketch", "lab-night")

THINGS = _lab_set("lab-things", targets=(*_OTHER_CLASSES, *_SAME_OBJECTS))
ROBUST = _lab_set("lab-robust", targets=("lab-food", "lab-logos", "lab-people", "lab-travel", "lab-effects"))
# 8 of the 110 classes of lab-things are trained on, as in the field some classes of its zero-shot sets are ImageNet's
ROBUST_TRAVEL = _lab_set(
    "lab-robust-travel", targets=("lab-things", "lab-food", "lab-logos", "lab-people", "lab-effects")
)
ICONS = _lab_set("icons", targets=_OTHER_CLASSES)
WILD, CLUTTER, SKETCH, NIGHT = map(_lab_set, _SAME_OBJECTS)
FOOD, PEOPLE, FACES, TRAVEL, LOGOS, EFFECTS, COLORED = map(_lab_set, _OTHER_CLASSES)

_FOR_SETTINGS = ("lab-clutter", "lab-food", "lab-people", "lab-colored")
_ALL = ("lab-things", *_SAME_OBJECTS, *_OTHER_CLASSES)

SUITE = Suite(_ALL, cross=("lab-things",), shifts=("lab-robust",))
# settings are chosen on these, and on their validation images alone; the other eight are looked at afterwards
DEVELOPMENT = Suite(_FOR_SETTINGS)
REPORT = Suite(tuple(name for name in _ALL if name not in _FOR_SETTINGS))
