"""Which cells a protocol yields."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from steadyclip.commands.bench import ProtocolName
from steadyclip.core.errors import UsageError
from steadyclip.data import ImageData, ImageSet, load_data
from steadyclip.data.images import FileStore
from steadyclip.data.prompts import imagenet_80
from steadyclip.experiments.choose import choose
from steadyclip.experiments.protocols import (
    PROTOCOLS,
    BaseToNew,
    CrossDataset,
    DomainGeneralization,
    FewShot,
    RobustFineTuning,
    Source,
    Target,
    merged,
)
from steadyclip.experiments.rows import parse_rows

ROWS = parse_rows(["zero-shot", "lora"])


def open_data(source: Source):
    return load_data(source.name, sources=source.sources)


def test_the_command_knows_every_protocol() -> None:
    assert get_args(ProtocolName) == tuple(PROTOCOLS)


def test_base_to_new() -> None:
    cells = BaseToNew(("a", "b")).cells(ROWS, (1, 2))
    assert [cell.title for cell in cells] == [
        "zero-shot, a", "lora, a base, 16-shot, seed 1", "zero-shot, b", "lora, b base, 16-shot, seed 1",
        "lora, a base, 16-shot, seed 2", "lora, b base, 16-shot, seed 2",
    ]  # fmt: skip
    assert all([test.subset for test in cell.tests] == ["base", "new"] for cell in cells)


def test_few_shot_scores_what_learns_nothing_once() -> None:
    cells = FewShot(("a",)).cells(ROWS, (1, 2, 3))
    assert [cell.sample.shots for cell in cells if cell.row.label == "lora"] == [1, 2, 4, 8, 16] * 3
    assert sum(cell.row.label == "zero-shot" for cell in cells) == 1


def test_protocols_share_trainings() -> None:
    few = FewShot(("icons",)).cells(ROWS, (1,))
    cross = CrossDataset("icons", ("x", "y")).cells(ROWS, (1,))
    shift = DomainGeneralization("icons", ("emoji",)).cells(ROWS, (1,))
    both = merged([*few, *cross, *shift])
    assert len(both) == len(few)
    (shared,) = (cell for cell in both if cell.sample.shots == 16)
    icons = Source("icons")
    assert shared.tests == (
        Target(icons),
        Target(Source("x"), role="transfer"),
        Target(Source("y"), role="transfer"),
        Target(icons, domain="emoji", role="ood"),
    )


def test_robust_takes_all_images_and_generic_prompts() -> None:
    protocol = RobustFineTuning("ImageNet", (), ("ImageNet-R",), ("DTD",), imagenet_80())
    (cell,) = protocol.cells(ROWS[1:], (1,))
    assert cell.sample.shots is None
    assert cell.sample.data.templates == imagenet_80()
    home, shifted, other = cell.tests
    assert (home.role, shifted.role, other.role) == ("id", "ood", "transfer")
    assert shifted.data.templates == imagenet_80()
    assert other.data.templates == ("a photo of a {}.",)


def test_the_icon_world_needs_no_words() -> None:
    topics = ("animals", "food", "transport", "nature", "objects", "symbols", "concepts")
    others = tuple(f"icon-{topic}" for topic in topics)
    domains = ("fill", "duotone", "solid", "emoji")
    assert choose("base-to-new", ["icons"], open_data) == BaseToNew(("icons",))
    assert choose("few-shot", ["icons"], open_data, shots=[1, 4]) == FewShot(("icons",), (1, 4))
    assert choose("cross-dataset", ["icons"], open_data) == CrossDataset("icons", others)
    assert choose("domain-generalization", ["icons"], open_data) == DomainGeneralization("icons", domains)
    assert choose("robust", ["icons"], open_data) == RobustFineTuning("icons", domains, (), others, generic=None)


def test_targets_are_domains_or_data(world: Path) -> None:
    photos = str(world / "photos")
    found = choose("cross-dataset", [photos], open_data, targets=["icon-animals"])
    assert found == CrossDataset(photos, ("icon-animals",))
    assert choose("domain-generalization", ["icons"], open_data, ["emoji"]) == DomainGeneralization("icons", ("emoji",))
    # every class of a data set is also one of its own
    assert choose("domain-generalization", [photos], open_data, [photos]) == DomainGeneralization(photos, (), (photos,))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"name": "base-to-new", "data": []}, "no data was named"),
        ({"name": "base-to-new", "data": ["icons"], "shots": [1, 2]}, "takes one number of shots"),
        ({"name": "base-to-new", "data": ["icons"], "targets": ["emoji"]}, "has no targets"),
        ({"name": "few-shot", "data": ["icons"], "targets": ["emoji"]}, "has no targets"),
        ({"name": "few-shot", "data": ["icons"], "sources": ["emoji"]}, "--sources belongs to"),
        ({"name": "few-shot", "data": ["icons"], "shots": [4, 0]}, "--shots: shots must be 1 or more, not 0"),
        ({"name": "base-to-new", "data": ["icons"], "shots": [-1]}, "--shots: shots must be 1 or more, not -1"),
        ({"name": "few-shot", "data": ["icons"], "shots": [4, 1, 4]}, "--shots: 4 is given twice"),
        ({"name": "base-to-new", "data": ["icons", "icons"]}, "--data: icons is given twice"),
        ({"name": "robust", "data": ["icons"], "targets": ["emoji", "emoji"]}, "--targets: emoji is given twice"),
        ({"name": "robust", "data": ["icons"], "shots": [4]}, "takes every training image"),
        ({"name": "robust", "data": ["icons", "icon-food"]}, "trains on one data set"),
        ({"name": "cross-dataset", "data": ["{photos}"]}, "needs data sets to score on"),
        ({"name": "domain-generalization", "data": ["{photos}"]}, "needs other domains"),
        (
            {"name": "domain-generalization", "data": ["icons"], "targets": ["icon-animals"]},
            "has other classes than icons",
        ),
    ],
)
def test_mistakes(words: dict, line: str, world: Path) -> None:
    words = {**words, "data": [name.format(photos=world / "photos") for name in words["data"]]}
    with pytest.raises(UsageError) as caught:
        choose(open_data=open_data, **words)
    assert line in str(caught.value)


def test_shifts_of_imagenet_take_its_prompts_even_under_other_names() -> None:
    classes = {"imagenet": ("alarm clock", "bow"), "imagenet-r": ("bow",), "objectnet": ("alarm clock", "weight")}
    names = {"imagenet": "ImageNet", "imagenet-r": "ImageNet-R", "objectnet": "ObjectNet", "dtd": "DTD"}

    def opened(source: Source) -> ImageData:
        own = classes.get(source.name, ("dots",))
        none = ImageSet(source.name, own, ("{}",), (), (), (), (), FileStore(Path()))
        return ImageData(names[source.name], own, ("{}",), (), {"train": none})

    found = choose("robust", ["imagenet"], opened, ["imagenet-r", "objectnet", "dtd"])
    assert found == RobustFineTuning("imagenet", (), ("imagenet-r", "objectnet"), ("dtd",), imagenet_80())
    assert choose("domain-generalization", ["imagenet"], opened, ["objectnet"]) == DomainGeneralization(
        "imagenet", (), ("objectnet",)
    )
