"""Miniatures of the field's data sets, laid out as CoOp's DATASETS.md, DomainBed and WiSE-FT describe them.

The folders below are written down here a second time, so that a slip in the catalog shows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from steadyclip.data.catalog import Entry, entries, find

SPLIT_FILES = {  # name: (folder, folder of the images, split file)
    "Caltech101": ("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "OxfordPets": ("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "StanfordCars": ("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "Flowers102": ("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "Food101": ("food-101", "images", "split_zhou_Food101.json"),
    "SUN397": ("sun397", "SUN397", "split_zhou_SUN397.json"),
    "DTD": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "EuroSAT": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "UCF101": ("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
}
FLAT = ("OxfordPets", "Flowers102")
"""All images in one folder."""


@pytest.fixture
def lay(tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Entry]:
    """``lay("PACS")`` lays a miniature out in ``tmp_path`` and lets the catalog expect just that."""
    monkeypatch.delenv("STEADYCLIP_DATA", raising=False)

    def make(name: str) -> Entry:
        small = build(name, tmp_path, picture("one"))
        known = tuple(small if item.name == name else item for item in entries._ENTRIES)
        monkeypatch.setattr(entries, "_ENTRIES", known)
        for spelling in (name, small.folder):
            monkeypatch.setitem(entries._BY_NAME, entries.plain(spelling), small)
        return small

    return make


def build(name: str, root: Path, png: bytes) -> Entry:
    """Lays the data set ``name`` out below ``root``; returns its entry with the counts of the miniature."""
    entry = find(name)
    assert entry
    if name in SPLIT_FILES:
        counts = _split_file(name, root, png, entry.classes)
    elif entry.domains:
        counts = _domains(name, root, png, entry)
    else:
        counts = {"FGVCAircraft": _aircraft, "ObjectNet": _objectnet}.get(name, _imagenet)(name, root, png)
    return dataclasses.replace(entry, counts=counts)


def put(path: Path, png: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def table(name: str) -> list[str]:
    """The lines of one of the catalog's tables."""
    return (files("steadyclip.data.catalog") / name).read_text().splitlines()


def _split_file(name: str, root: Path, png: bytes, classes: int) -> dict[str, int]:
    folder, images, split_file = SPLIT_FILES[name]
    base = root / folder
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label in range(classes):
        for part in split:
            place = {"StanfordCars": "cars_test" if part == "test" else "cars_train", "SUN397": f"a/place_{label}"}
            key = f"{place.get(name, f'thing_{label}')}/{part}_{label}.jpg"
            key = key.rpartition("/")[2] if name in FLAT else key
            put(base / images / key, png)
            split[part].append([key, label, f"thing_{label}"])
    (base / split_file).write_text(json.dumps(split))
    return dict.fromkeys(split, classes)


def _aircraft(name: str, root: Path, png: bytes) -> dict[str, int]:
    base = root / "fgvc_aircraft"
    variants = ["707-320", "F/A-18", *(f"A{i} long" for i in range(98))]
    for part, first in (("train", 0), ("val", 100), ("test", 200)):
        for number in range(first, first + 100):
            put(base / "images" / f"{number:07}.jpg", png)
        lines = [f"{first + i:07} {variant}\n" for i, variant in enumerate(variants)]
        (base / f"images_variant_{part}.txt").write_text("".join(lines))
    (base / "variants.txt").write_text("\n".join(variants) + "\n")
    return dict.fromkeys(("train", "val", "test"), 100)


def _imagenet(name: str, root: Path, png: bytes) -> dict[str, int]:
    folder, images = {
        "ImageNet": ("imagenet", "images"),
        "ImageNet-V2": ("imagenetv2", "imagenetv2-matched-frequency-format-val"),
        "ImageNet-Sketch": ("imagenet-sketch", "images"),
        "ImageNet-A": ("imagenet-adversarial", "imagenet-a"),
        "ImageNet-R": ("imagenet-rendition", "imagenet-r"),
    }[name]
    base = root / folder
    own = {*table("imagenet-a.txt"), *table("imagenet-r.txt")}
    folders = sorted([*own, *(f"n{number:08}" for number in range(1, 1001 - len(own)))])
    names = ["twin", "twin", *(f"thing number {i}" for i in range(2, 1000))]  # two pairs of ImageNet's share a name
    base.mkdir()
    (base / "classnames.txt").write_text("".join(f"{w} {n}\n" for w, n in zip(folders, names, strict=True)))
    if name in ("ImageNet-A", "ImageNet-R"):
        folders = table(f"{name.lower()}.txt")
        (base / images).mkdir()
        (base / images / "README.txt").write_text("lies in the archive")
    if name == "ImageNet-V2":
        folders = [str(label) for label in range(1000)]
    if name == "ImageNet":
        for wnid in folders:
            put(base / images / "train" / wnid / f"{wnid}_1.JPEG", png)
            put(base / images / "val" / wnid / "ILSVRC2012_val_00000001.JPEG", png)
        return {"train": 1000, "test": 1000}
    for place in folders:
        put(base / images / place / "0.jpeg", png)
    return {"test": len(folders)}


def _objectnet(name: str, root: Path, png: bytes) -> dict[str, int]:
    ours = [line.split("\t")[0] for line in table("objectnet.txt")]
    for folder in [*ours, "air_freshener"]:  # the last is not ImageNet's
        put(root / "objectnet-1.0" / "images" / folder / "abc.png", png)
    return {"test": 113}


def _domains(name: str, root: Path, png: bytes, entry: Entry) -> dict[str, int]:
    folder, domains = {
        "PACS": ("PACS", ("art_painting", "cartoon", "photo", "sketch")),
        "VLCS": ("VLCS", ("Caltech101", "LabelMe", "SUN09", "VOC2007")),
        "OfficeHome": ("office_home", ("Art", "Clipart", "Product", "Real World")),
        "DomainNet": ("domain_net", ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")),
    }[name]
    each = 5 if entry.classes < 100 else 2
    for domain in domains:
        for label in range(entry.classes):
            for index in range(each):
                put(root / folder / domain / f"Thing_{label}" / f"{index}.jpg", png)
    return dict.fromkeys(domains, each * entry.classes)
