"""The field's data sets as facts: what each is called, how it lies on disk, and what must be there.

Sources: folders, split files and their numbers: CoOp (Zhou et al., 2022), DATASETS.md and the paper's table of
data sets. PACS, VLCS, OfficeHome, DomainNet: DomainBed (Gulrajani and Lopez-Paz, 2021). ObjectNet and its 113 classes:
WiSE-FT (Wortsman et al., 2022). The 200 classes of ImageNet-A and -R: the authors' own lists (Hendrycks et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.layouts import ZHOU
from steadyclip.data.prompts import templates_for

Layout = Literal["split file", "aircraft", "imagenet", "wnids", "numbers", "objectnet", "domains"]
"""How the images lie: see the readers of the same names in `reading`."""


@dataclass(frozen=True)
class Entry:
    """One data set of the field."""

    name: str
    """As tables print it; capitals, hyphens and underscores do not matter when it is asked for."""
    folder: str
    """Its folder below the root."""
    images: str
    """The folder of the images below ``folder``; "" is ``folder`` itself."""
    layout: Layout
    """How the images lie."""
    classes: int
    """How many there are."""
    counts: Mapping[str, int]
    """Official number of images for each split, or for each domain of a data set of domains."""
    home: str
    """The authors' page."""
    license: str
    """What its authors allow, in a few words; "not stated" where they say nothing."""
    split: str = ""
    """The field's split file, if the layout has one."""
    classes_of: str = ""
    """The data set whose classes these are, all or some of them, perhaps under other names; "" where they are its
    own."""

    @property
    def total(self) -> int:
        """How many images there are in all."""
        return sum(self.counts.values())

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


def entry(name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    found = find(name)
    if found is None:
        names = [item.name.lower() for item in _ENTRIES]
        raise DataError(
            f"no data set of the catalog is called {name!r}.{nearest(name.lower(), names)} See steadyclip data list."
        )
    return found


def is_shift(name: str, classes: Iterable[str], of: str, of_classes: Iterable[str]) -> bool:
    """Whether the data set ``name`` is ``of`` under shift: none of its ``classes`` is its own, by their names or, where
    it calls them otherwise (ObjectNet), by the catalog."""
    known = find(name)
    return set(classes) <= set(of_classes) or (known is not None and known.classes_of == of)


def plain(name: str) -> str:
    """``name`` as names are compared."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _zhou(
    name: str, folder: str, images: str, classes: int, counts: tuple[int, int, int], home: str, license: str,
    split: str = "",
) -> Entry:  # fmt: skip
    """A data set with one of CoOp's split files; ``split`` is its name there if it is another."""
    by_split: dict[str, int] = dict(zip(("train", "val", "test"), counts, strict=True))
    return Entry(name, folder, images, "split file", classes, by_split, home, license, f"{ZHOU}{split or name}.json")


_HENDRYCKS = "https://github.com/hendrycks"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"

_ENTRIES = (
    Entry(
        "ImageNet", "imagenet", "images", "imagenet", 1000, {"train": 1_281_167, "test": 50_000},
        "https://image-net.org", "non-commercial research and education, by agreement",
    ),
    _zhou(
        "Caltech101", "caltech-101", "101_ObjectCategories", 100, (4128, 1649, 2465),
        "https://data.caltech.edu/records/mzrjq-6wc02", "CC BY 4.0",
    ),
    _zhou("OxfordPets", "oxford_pets", "images", 37, (2944, 736, 3669), f"{_OXFORD}/pets/", "CC BY-SA 4.0"),
    _zhou(
        "StanfordCars", "stanford_cars", "", 196, (6509, 1635, 8041),
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html", "not stated",
    ),
    _zhou(
        "Flowers102", "oxford_flowers", "jpg", 102, (4093, 1633, 2463), f"{_OXFORD}/flowers/102/", "not stated",
        "OxfordFlowers",
    ),
    _zhou(
        "Food101", "food-101", "images", 101, (50_500, 20_200, 30_300),
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "scientific fair use only",
    ),
    Entry(
        "FGVCAircraft", "fgvc_aircraft", "images", "aircraft", 100, {"train": 3334, "val": 3333, "test": 3333},
        f"{_OXFORD}/fgvc-aircraft/", "non-commercial research only",
    ),
    _zhou(
        "SUN397", "sun397", "SUN397", 397, (15_880, 3970, 19_850),
        "https://vision.princeton.edu/projects/2010/SUN/", "not stated",
    ),
    _zhou("DTD", "dtd", "images", 47, (2820, 1128, 1692), f"{_OXFORD}/dtd/", "research only", "DescribableTextures"),
    _zhou("EuroSAT", "eurosat", "2750", 10, (13_500, 5400, 8100), "https://github.com/phelber/EuroSAT", "MIT"),
    _zhou(
        "UCF101", "ucf101", "UCF-101-midframes", 101, (7639, 1898, 3783),
        "https://www.crcv.ucf.edu/data/UCF101.php", "not stated",
    ),
    Entry(
        "ImageNet-V2", "imagenetv2", "imagenetv2-matched-frequency-format-val", "numbers", 1000, {"test": 10_000},
        "https://github.com/modestyachts/ImageNetV2", "MIT", classes_of="ImageNet",
    ),
    Entry(
        "ImageNet-Sketch", "imagenet-sketch", "images", "wnids", 1000, {"test": 50_889},
        "https://github.com/HaohanWang/ImageNet-Sketch", "not stated for the images (repository: MIT)",
        classes_of="ImageNet",
    ),
    Entry(
        "ImageNet-A", "imagenet-adversarial", "imagenet-a", "wnids", 200, {"test": 7500},
        f"{_HENDRYCKS}/natural-adv-examples", "not stated for the images (repository: MIT)", classes_of="ImageNet",
    ),
    Entry(
        "ImageNet-R", "imagenet-rendition", "imagenet-r", "wnids", 200, {"test": 30_000},
        f"{_HENDRYCKS}/imagenet-r", "not stated for the images (repository: MIT)", classes_of="ImageNet",
    ),
    Entry(
        "ObjectNet", "objectnet-1.0", "images", "objectnet", 113, {"test": 18_574},
        "https://objectnet.dev", "CC BY 4.0; never train on it; show its images with their red border only",
        classes_of="ImageNet",
    ),
    Entry(
        "PACS", "PACS", "", "domains", 7, {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
        "https://github.com/facebookresearch/DomainBed", "not stated",
    ),
    Entry(
        "VLCS", "VLCS", "", "domains", 5, {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
        "https://github.com/facebookresearch/DomainBed", "not stated",
    ),
    Entry(
        "OfficeHome", "office_home", "", "domains", 65,
        {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
        "https://www.hemanthdv.org/officeHomeDataset.html", "non-commercial research and education",
    ),
    Entry(
        "DomainNet", "domain_net", "", "domains", 345,
        {
            "clipart": 48_129, "infograph": 51_605, "painting": 72_266,
            "quickdraw": 172_500, "real": 172_947, "sketch": 69_128,
        },
        "http://ai.bu.edu/M3SDA/", "non-commercial research and education",
    ),
)  # fmt: skip

_BY_NAME = {plain(spelling): item for item in _ENTRIES for spelling in (item.folder, item.name)}
