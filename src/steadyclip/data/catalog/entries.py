"""The field's data sets as facts: what each is called, how it lies on disk, and what must be there.

The facts are in ``catalog.json``. Sources: folders, split files and their numbers: CoOp (Zhou et al., 2022),
DATASETS.md and the paper's table of data sets. PACS, VLCS, OfficeHome, DomainNet: DomainBed (Gulrajani and Lopez-Paz,
2021). ObjectNet and its 113 classes: WiSE-FT (Wortsman et al., 2022). The 200 classes of ImageNet-A and -R: the
authors' own lists (Hendrycks et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import msgspec

from steadyclip.data.layouts import ZHOU
from steadyclip.data.prompts import templates_for

Layout = Literal["split file", "aircraft", "imagenet", "wnids", "numbers", "objectnet", "domains"]


@dataclass(frozen=True)
class Entry:
    """One data set of the field.

    Attributes:
        name: as tables print it; capitals, hyphens and underscores do not matter when it is asked for.
        folder: its folder below the root.
        images: the folder of the images below ``folder``; "" is ``folder`` itself.
        layout: how the images lie; ``reading`` says more.
        classes: how many there are.
        counts: official number of images for each split, or for each domain of a data set of domains.
        home: the authors' page.
        license: what its authors allow, in a few words; "not stated" where they say nothing.
        split: the field's split file, if the layout has one.
        classes_of: the data set whose classes these are, all or some of them, perhaps under other names; "" where
            they are its own.
    """

    name: str
    folder: str
    images: str
    layout: Layout
    classes: int
    counts: Mapping[str, int]
    home: str
    license: str
    split: str = ""
    classes_of: str = ""

    @property
    def total(self) -> int:
        """How many images there are in all."""
        return sum(self.counts.values())

    @property
    def listed(self) -> bool:
        """Whether text files name the images, and not the folders alone."""
        return self.layout in ("split file", "aircraft")

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains, named as their folders."""
        return tuple(self.counts) if self.layout == "domains" else ()

    @property
    def templates(self) -> tuple[str, ...]:
        """CoOp's hand template, that of ``classes_of`` if there is one, or the default where CoOp has none."""
        return templates_for(self.split[len(ZHOU) : -len(".json")] or self.classes_of or self.name)


def catalog() -> tuple[Entry, ...]:
    """Every data set of the field that can be loaded by name."""
    return _ENTRIES


def find(name: str) -> Entry | None:
    """The entry called ``name``, or with a folder of that name, however it is spelt; None if there is none."""
    return _BY_NAME.get(plain(name))


def is_shift(name: str, classes: Iterable[str], of: str, of_classes: Iterable[str]) -> bool:
    """Whether the data set ``name`` is ``of`` under shift: none of its ``classes`` is its own, by their names or, where
    it calls them otherwise (ObjectNet), by the catalog."""
    known = find(name)
    return set(classes) <= set(of_classes) or (known is not None and known.classes_of == of)


def plain(name: str) -> str:
    """``name`` as names are compared."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


_ENTRIES = msgspec.json.decode((files("steadyclip.data.catalog") / "catalog.json").read_bytes(), type=tuple[Entry, ...])
_BY_NAME = {plain(spelling): item for item in _ENTRIES for spelling in (item.folder, item.name)}
