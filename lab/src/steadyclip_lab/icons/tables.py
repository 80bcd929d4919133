"""The curated tables: which drawings of which team make up a class, and which of them are for training.

A table is a text file beside this module: ``[class | second name]``, then one concept a line with its drawings in each
pack. A concept is one thing or idea, however many teams and styles drew it. The split is made of drawings: all styles
of what one team drew under one name stand on one side; another team's drawing of the same thing may be on the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from steadyclip_lab.icons.packs import DOWNSTREAM

_FOLDER = Path(__file__).parent / "tables"
_COLUMNS = tuple(DOWNSTREAM)

TABLES = {
    "icons": "icons",
    "icon-concepts": "concepts",
    "icon-animals": "animals",
    "icon-food": "food",
    "icon-transport": "transport",
    "icon-nature": "nature",
    "icon-objects": "objects",
    "icon-symbols": "symbols",
}
"""Data set -> its file in ``tables``."""

SHARES = {"train": 0.48, "val": 0.12, "test": 0.40}
"""Of the drawings of a class by the teams that draw in lines."""

TRAINED = ("phosphor", "lucide")
"""The teams that draw in lines; the others are for testing only."""


@dataclass(frozen=True)
class Concept:
    """One thing with its drawings: pack -> names, at least one."""

    name: str
    names: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class IconClass:
    """A class of a data set; ``also`` is its common second name, where it has one."""

    name: str
    also: str | None
    concepts: tuple[Concept, ...]


def table_bytes(data_set: str) -> bytes:
    """The table's file as it is."""
    return (_FOLDER / f"{TABLES[data_set]}.tsv").read_bytes()


@cache
def read_table(data_set: str) -> tuple[IconClass, ...]:
    """The classes of ``data_set`` in their fixed order."""
    classes: list[IconClass] = []
    for line in table_bytes(data_set).decode().splitlines():
        if line.startswith("["):
            name, _, also = line.strip("[]").partition(" | ")
            classes.append(IconClass(name, also or None, ()))
        elif line and not line.startswith("#"):
            last = classes[-1]
            classes[-1] = IconClass(last.name, last.also, (*last.concepts, _concept(line)))
    return tuple(classes)


def _concept(line: str) -> Concept:
    name, *cells = line.split("\t")
    names = [() if cell == "-" else tuple(cell.split()) for cell in cells]
    return Concept(name, dict(zip(_COLUMNS, names, strict=True)))


def split_drawings(chosen: IconClass) -> dict[tuple[str, str], str]:
    """(pack, name) -> "train", "val" or "test", the same whatever the order of the table.

    A drawing is split with all its styles. The teams that draw in lines come one after the other, each in the order
    of a hash of class and name; a drawing goes to the split that is furthest behind its share. The other teams are
    never trained on.
    """
    splits: dict[tuple[str, str], str] = {}
    count = dict.fromkeys(SHARES, 0)
    for pack in _COLUMNS:
        names = {name for concept in chosen.concepts for name in concept.names[pack]}
        for name in sorted(names, key=lambda name: hashlib.sha256(f"{chosen.name}/{name}".encode()).hexdigest()):
            if pack in TRAINED:
                behind = {split: round(share * (len(splits) + 1) - count[split], 6) for split, share in SHARES.items()}
                split = max(behind, key=lambda split: behind[split])
                count[split] += 1
            else:
                split = "test"
            splits[pack, name] = split
    return splits
