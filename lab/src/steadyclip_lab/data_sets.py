"""What the entry points refer to: the data sets by name, the pretraining pairs, `icons-tiny`. Free of torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from steadyclip.data.builtin import BuiltIn
from steadyclip_lab.icons.building import built, pretraining_pairs

ICONS_TINY = Path(__file__).parent / "weights" / "icons-tiny"
PAIRS = pretraining_pairs

_TOPICS = ("icon-animals", "icon-food", "icon-transport", "icon-nature", "icon-objects", "icon-symbols")


def _data_set(name: str, targets: tuple[str, ...] = ()) -> BuiltIn:
    # "an icon of a {}." is as general as a prompt can be
    return BuiltIn(partial(built, name), targets, generic_prompt=True)


ICONS = _data_set("icons", targets=(*_TOPICS, "icon-concepts"))
CONCEPTS = _data_set("icon-concepts")
ANIMALS, FOOD, TRANSPORT, NATURE, OBJECTS, SYMBOLS = map(_data_set, _TOPICS)
