"""What stands in each data set: its classes in their order, its samples before anything is drawn.

Everything is decided by SHA-256 of names, so that the same samples come out on every machine. A team trains or it
tests, in all data sets (``drawings.sets``); a test drawing that equals one of a training team is not on the shelf.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product, zip_longest
from pathlib import Path

from steadyclip_lab.drawings.captions import caption
from steadyclip_lab.drawings.sets import TRAIN, Drawing
from steadyclip_lab.drawings.shelf import shelf
from steadyclip_lab.suite.effects import COLORS, EFFECTS, colored, shown
from steadyclip_lab.suite.scenes import SCENES, Scene, render

TEMPLATE = "an icon of a {}."
MOST_CLASSES = 110
COLORED_THINGS = ("bell", "book", "car", "fish", "heart", "house", "key", "leaf", "star", "umbrella")
STRANGERS = {"train": ("ph", "ri"), "val": ("ph", "ri"), "test": ("lucide", "fluent")}
"""The sets whose drawings stand behind the one that is named, in clutter."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set: a drawing in a scene. ``key`` is unique within the data set."""

    key: str
    drawing: Drawing
    label: str
    split: str
    domain: str
    seed: int
    scene: Scene

    def image(self) -> bytes:
        """PNG bytes of 64 x 64 pixels."""
        return self._shown(self.drawing)

    def ground(self) -> bytes:
        """The same without the drawing: the pixels that differ are the drawing's."""
        return self._shown(replace(self.drawing, body=""))

    def _shown(self, drawing: Drawing) -> bytes:
        content = self.scene(random.Random(self.seed), drawing, _strangers(self.split))
        return render(content, self.key)

    @property
    def caption(self) -> str:
        """What a person might write under the image."""
        return caption(self.drawing, self.label)


@dataclass(frozen=True)
class LabSet:
    """One data set of the suite: classes from a table, shown in a scene."""

    name: str
    about: str
    table: str
    scene: str = "plain"
    template: str = TEMPLATE
    per_class: tuple[int, int, int] = (20, 4, 20)
    """Images of a class in training, validation and test (in each domain of the test)."""
    domain: str = "all"
    """Of training and validation, and of the test where there are no shifts."""
    shifts: Mapping[str, str] | None = None
    """Domain -> scene of the test."""

    @property
    def classes(self) -> list[str]:
        """Class names: by SHA-256 of ``name/class``; the first half is base."""
        if self.table == "effects":
            names: Iterable[str] = EFFECTS
        elif self.table == "colored":
            names = (f"{color} {thing}" for color, thing in product(COLORS, COLORED_THINGS))
        else:
            names = read_table(self.table)
        return sorted(names, key=lambda one: _digest(f"{self.name}/{one}"))[:MOST_CLASSES]

    def samples(self, label: str) -> Iterator[Sample]:
        """The samples of a class: training, validation, test of each domain."""
        _, _, tested = self.per_class
        yield from self._taken(label, "train", self.domain, self.scene, range(self.per_class[0]))
        yield from self._taken(label, "val", self.domain, self.scene, range(self.per_class[0], sum(self.per_class[:2])))
        for domain, scene in (self.shifts or {self.domain: self.scene}).items():
            yield from self._taken(label, "test", domain, scene, range(tested))

    def _taken(self, label: str, split: str, domain: str, scene: str, numbers: range) -> Iterator[Sample]:
        """The drawings of a class in turn, one for each number."""
        shows, drawings = self._shows(label, scene)
        of_split = [one for one in drawings if (one.team in TRAIN) == (split != "test")]
        if self.shifts and "emoji" in self.shifts:  # color stands in a domain of its own
            of_split = [one for one in of_split if one.colored == (domain == "emoji")]
        turns = _in_turn(of_split, f"{self.name}/{label}")
        for number in numbers if turns else ():
            drawing = turns[number % len(turns)]
            seed = int(_digest(f"{self.name}/{split}/{domain}/{label}/{number}/{drawing.key}"), 16)
            key = f"{split}/{domain}/{label.replace(' ', '-')}/{number:02d}-{drawing.set}-{drawing.icon}.png"
            yield Sample(key, drawing, label, split, domain, seed, shows)

    def _shows(self, label: str, scene: str) -> tuple[Scene, list[Drawing]]:
        """How a class is shown, and its drawings."""
        if self.table == "effects":
            filled = [one for one in shelf() if not one.colored and ("fill" in one.style or one.set == "fa7-solid")]
            things = {name for names in read_table("objects").values() for name in names}
            chosen = [one for one in filled if one.name in things and not one.is_brand]
            return shown(label), sorted(chosen, key=lambda one: _digest(f"{label}/{one.key}"))
        if self.table == "colored":
            color, thing = label.split(" ", 1)
            return colored(color), [one for one in drawings_of("objects", thing) if not one.colored]
        return SCENES[scene], drawings_of(self.table, label)


SUITE = {
    one.name: one
    for one in (
        LabSet("lab-things", "general objects on plain grounds", "objects"),
        LabSet("lab-wild", "objects on textured grounds", "objects", "wild"),
        LabSet("lab-clutter", "objects among other things", "objects", "clutter"),
        LabSet("lab-sketch", "objects drawn by hand", "objects", "sketch"),
        LabSet("lab-night", "objects that are small, dark and out of focus", "objects", "night"),
        LabSet("lab-logos", "brands", "logos", "wild", per_class=(20, 4, 30)),
        LabSet("lab-travel", "vehicles, buildings, places", "travel", "wild"),
        LabSet("lab-food", "food and drink", "food"),
        LabSet("lab-people", "people, actions, gestures", "people"),
        LabSet("lab-faces", "expressions", "faces"),
        LabSet("lab-effects", "how a thing is shown", "effects", "", "an icon that is {}.", (40, 8, 70)),
        LabSet("lab-colored", "a color and a thing", "colored"),
    )
}
"""The twelve data sets, by name."""

ROBUST = LabSet(
    "lab-robust",
    "objects on plain grounds, and the same in five shifts",
    "objects",
    per_class=(40, 4, 10),
    domain="plain",
    shifts={scene: scene for scene in SCENES} | {"emoji": "plain"},
)
"""For robust fine-tuning and domain generalization."""
ROBUST_TRAVEL = LabSet(
    "lab-robust-travel",
    "vehicles, buildings, places on plain grounds, and the same in four shifts",
    "travel",
    per_class=(20, 4, 10),
    domain="plain",
    shifts={scene: scene for scene in SCENES},
)
"""The same with things that the small model knows less well: on those of `lab-robust` no training gains anything."""
ICONS = LabSet("icons", "categories made by hand, most of two kinds of thing", "icons", per_class=(20, 4, 30))
"""Beside the suite, for its size: its names were once chosen with an eye on a model."""
DATA_SETS = {one.name: one for one in (*SUITE.values(), ROBUST, ROBUST_TRAVEL, ICONS)}


@cache
def read_table(name: str) -> dict[str, tuple[str, ...]]:
    """Class -> the names of its drawings."""
    lines = (Path(__file__).parent / "tables" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {label: tuple(names.split()) for label, names in rows}


@cache
def drawings_of(table: str, label: str) -> list[Drawing]:
    """The drawings of a class of a table: of brands in logos, of things elsewhere."""
    names = set(read_table(table)[label])
    return [one for one in shelf() if one.name in names and one.is_brand == (table == "logos")]


@cache
def _strangers(split: str) -> tuple[Drawing, ...]:
    return tuple(one for one in shelf() if one.set in STRANGERS[split] and not one.is_brand)


def _in_turn(drawings: Sequence[Drawing], seed: str) -> list[Drawing]:
    """Team after team, and within a team style after style, until every drawing was taken."""

    def woven(groups: dict[str, list[Drawing]]) -> list[Drawing]:
        order = sorted(groups, key=lambda key: _digest(f"{seed}/{key}"))
        return [one for round_ in zip_longest(*(groups[key] for key in order)) for one in round_ if one is not None]

    teams: dict[str, dict[str, list[Drawing]]] = {}
    for one in sorted(drawings, key=lambda one: _digest(f"{seed}/{one.key}")):
        teams.setdefault(one.team, {}).setdefault(f"{one.set}/{one.style}", []).append(one)
    return woven({team: woven(styles) for team, styles in teams.items()})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
