"""What the entry points refer to: the data sets by name, the pretraining pairs, `icons-tiny`. Free of torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from steadyclip.data.builtin import BuiltIn
from steadyclip_lab.icons.building import built, pretraining_pairs
from steadyclip_lab.suite import building as suite

ICONS_TINY = Path(__file__).parent / "weights" / "icons-tiny"
PAIRS = pretraining_pairs

_TOPICS = ("icon-animals", "icon-food", "icon-transport", "icon-nature", "icon-objects", "icon-symbols")


def _data_set(name: str, targets: tuple[str, ...] = ()) -> BuiltIn:
    # "an icon of a {}." is as general as a prompt can be
    return BuiltIn(partial(built, name), targets, generic_prompt=True)


ICONS = _data_set("icons", targets=(*_TOPICS, "icon-concepts"))
CONCEPTS = _data_set("icon-concepts")
ANIMALS, FOOD, TRANSPORT, NATURE, OBJECTS, SYMBOLS = map(_data_set, _TOPICS)


def _lab_set(name: str, targets: tuple[str, ...] = ()) -> BuiltIn:
    return BuiltIn(partial(suite.built, name), targets, generic_prompt=True)


_OTHER_CLASSES = ("lab-food", "lab-people", "lab-faces", "lab-travel", "lab-logos", "lab-effects", "lab-colored")
_SAME_OBJECTS = ("lab-wild", "lab-clutter", "lab-sketch", "lab-night")

THINGS = _lab_set("lab-things", targets=(*_OTHER_CLASSES, *_SAME_OBJECTS))
ROBUST = _lab_set("lab-robust", targets=("lab-food", "lab-logos", "lab-people", "lab-travel", "lab-effects"))
WILD, CLUTTER, SKETCH, NIGHT = map(_lab_set, _SAME_OBJECTS)
FOOD_AND_DRINK, PEOPLE, FACES, TRAVEL, LOGOS, EFFECTS, COLORED = map(_lab_set, _OTHER_CLASSES)
