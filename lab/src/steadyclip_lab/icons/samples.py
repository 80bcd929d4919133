"""From tables to images: each data set as a list of samples, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from steadyclip_lab.icons.captions import caption
from steadyclip_lab.icons.duplicates import same
from steadyclip_lab.icons.packs import PRETRAINING, Drawing, drawings
from steadyclip_lab.icons.render import PLAIN, Look, random_look
from steadyclip_lab.icons.tables import IconClass, read_table, split_drawings

DOMAINS = {
    "lines": (
        ("phosphor", "thin"),
        ("phosphor", "light"),
        ("phosphor", "regular"),
        ("phosphor", "bold"),
        ("lucide", "outline"),
    ),
    "fill": (("phosphor", "fill"),),
    "duotone": (("phosphor", "duotone"),),
    "solid": (("font-awesome", "solid"),),
    "emoji": (("openmoji", "colour"),),
}
"""Domain -> the (pack, style) pairs in it. Training sees "lines" only."""

WANTED = {"train": 20, "val": 6, "test": 24}
"""Images in "lines" that a class of ``icons`` has at least; its drawings are shown in several looks if need be."""
WANTED_ELSEWHERE = 8
"""The same for each other domain (test only), where the class has a drawing there."""
MOST_LOOKS = 8

CONCEPT_LOOKS = {"train": 4, "val": 1, "test": 4}
TOPIC_WANTED = 8
"""Images that a class of a topic set has at least."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set: a drawing and the look it is shown in. ``key`` is unique within the data set."""

    key: str
    drawing: Drawing
    look: Look
    label: str
    split: str
    domain: str
    caption: str


class Shelf:
    """The drawings of the packs by (pack, style, name); a pack is read when it is first asked for."""

    def __init__(self, data_set: str) -> None:
        self.data_set = data_set
        self._packs: dict[str, dict[tuple[str, str], Drawing]] = {}

    def get(self, pack: str, style: str, name: str) -> Drawing:
        if pack not in self._packs:
            self._packs[pack] = {(one.style, one.name): one for one in drawings(pack)}
        return self._packs[pack][style, name]

    def find(self, chosen: IconClass, domain: str) -> Iterator[Drawing]:
        """The drawings of a class in a domain."""
        for concept in chosen.concepts:
            for pack, style in DOMAINS[domain]:
                for name in concept.names[pack]:
                    yield self.get(pack, style, name)

    def samples(
        self, chosen: Iterable[Drawing], of: IconClass, split: str, domain: str, looks: Iterable[int]
    ) -> Iterator[Sample]:
        """Each drawing in each look; the looks are numbered from 1, and no two data sets share them."""
        for number in looks:
            for drawing in chosen:
                key = drawing.key if number == 1 else f"{drawing.key}@{number}"
                # black outlines of an emoji would be lost on a dark ground
                look = random_look(f"{self.data_set}/{key}", dark_ground=0.0 if drawing.colored else 0.3)
                yield Sample(key, drawing, look, of.name, split, domain, caption(drawing, of.name))


def plan(data_set: str) -> list[Sample]:
    """The samples of a built-in data set, or of the pretraining pairs ("pretrain"), in their fixed order.

    Raises:
        DataError: a pack is not installed.
    """
    if data_set == "pretrain":
        return _pretrain()
    shelf = Shelf(data_set)
    make = {"icons": _icons, "icon-concepts": _concepts}.get(data_set, _topic)
    return [sample for chosen in read_table(data_set) for sample in make(shelf, chosen)]


def _icons(shelf: Shelf, chosen: IconClass) -> Iterator[Sample]:
    """Split by drawing; training and validation in lines only, the test in every domain."""
    splits = split_drawings(chosen)
    for domain in DOMAINS:
        found = list(shelf.find(chosen, domain))
        for split in WANTED:
            if split == "test" or domain == "lines":
                here = [drawing for drawing in found if splits[drawing.pack, drawing.name] == split]
                wanted = WANTED[split] if domain == "lines" else WANTED_ELSEWHERE
                looks = min(MOST_LOOKS, math.ceil(wanted / len(here))) if here else 0
                yield from shelf.samples(here, chosen, split, domain, range(1, looks + 1))


def _concepts(shelf: Shelf, chosen: IconClass) -> Iterator[Sample]:
    """A concept has too few drawings to split them: phosphor's are for training, the other teams' for the test, but for
    those that ``icons`` trains on."""
    for domain in ("lines", "solid", "emoji"):
        found = list(shelf.find(chosen, domain))
        seen = [drawing for drawing in found if drawing.pack == "phosphor"]
        unseen = [drawing for drawing in _unseen(found) if drawing.pack != "phosphor"]
        train, val, test = CONCEPT_LOOKS["train"], CONCEPT_LOOKS["val"], CONCEPT_LOOKS["test"]
        yield from shelf.samples(seen, chosen, "train", domain, range(1, train + 1))
        yield from shelf.samples(seen, chosen, "val", domain, range(train + 1, train + val + 1))
        yield from shelf.samples(unseen, chosen, "test", domain, range(1, test + 1))


def _topic(shelf: Shelf, chosen: IconClass) -> Iterator[Sample]:
    """Only ever a target of transfer: every drawing in lines is a test sample, but for those that ``icons`` trains on.
    A class that has no other keeps its name among those to choose from."""
    found = _unseen(shelf.find(chosen, "lines"))
    looks = math.ceil(TOPIC_WANTED / len(found)) if found else 0
    yield from shelf.samples(found, chosen, "test", "lines", range(1, looks + 1))


def _unseen(found: Iterable[Drawing]) -> list[Drawing]:
    """Without the drawings that train or validate on ``icons``: its captions, which ARF learns from, name them."""
    return [drawing for drawing in found if (drawing.pack, drawing.name) not in _trained()]


@cache
def _trained() -> frozenset[tuple[str, str]]:
    """(pack, name) of the drawings in the training and validation halves of ``icons``."""
    splits = (split_drawings(chosen) for chosen in read_table("icons"))
    return frozenset(drawing for of in splits for drawing, split in of.items() if split != "test")


def _pretrain() -> list[Sample]:
    """Every drawing of the pretraining half once, black on white: training varies colors and pose itself.

    What looks like a drawing of the downstream half is left out.
    """
    return [
        Sample(drawing.key, drawing, PLAIN, drawing.text, "train", drawing.style, caption(drawing))
        for pack in PRETRAINING
        for drawing in drawings(pack)
        if drawing.key not in same()
    ]
