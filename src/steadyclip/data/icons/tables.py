"""The curated tables: which drawings of which team make up a class, and which of them are for training.

A table is a text file beside this module: ``[class | second name]``, then one concept a line with its drawings in each
pack. A concept is one thing or idea, however many teams and styles drew it; it is what the split is made of, so that
no drawing of a tested thing was ever seen in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from steadyclip.data.icons.packs import DOWNSTREAM

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
"""Of the concepts of a class."""

SPLIT_SEED = 273
"""The first whose split of ``icons`` has a test drawing of every class in every domain; nothing else chose it."""


@dataclass(frozen=True)
class Concept:
    """One thing with its drawings: pack -> names, at least one."""

    name: str
    names: Mapping[str, tuple[str, ...]]

    @property
    def in_lines(self) -> bool:
        """Some team drew it in a line style."""
        return bool(self.names["phosphor"] or self.names["lucide"])


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


def split_concepts(chosen: IconClass) -> dict[str, str]:
    """Concept name -> "train", "val" or "test", the same whatever the order of the table.

    Concepts are taken in the order of a hash of class and name, those first that phosphor drew (most pictures), then
    those of lucide alone; each goes to the split that is furthest behind its share. What no team drew in lines can
    only be a test of other styles.
    """
    count = dict.fromkeys(SHARES, 0)
    splits = {}
    in_lines = [concept for concept in chosen.concepts if concept.in_lines]
    for number, concept in enumerate(sorted(in_lines, key=lambda one: _rank(chosen, one)), start=1):
        split = max(SHARES, key=lambda name: round(SHARES[name] * number - count[name], 6))
        count[split] += 1
        splits[concept.name] = split
    return splits | {concept.name: "test" for concept in chosen.concepts if not concept.in_lines}


def _rank(chosen: IconClass, concept: Concept) -> tuple[bool, str]:
    digest = hashlib.sha256(f"{SPLIT_SEED}/{chosen.name}/{concept.name}".encode()).hexdigest()
    return not concept.names["phosphor"], digest
