"""Which cells a protocol yields."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import ImageData, ImageSet, catalog, load_data
from steadyclip.data.images import FileStore
from steadyclip.data.prompts import imagenet_80
from steadyclip.data.suites import find_suite
from steadyclip.experiments import protocols
from steadyclip.experiments.protocols import (
    GENERIC,
    Source,
    Target,
    base_to_new,
    cells,
    few_shot,
    from_source,
    make_plan,
)
from steadyclip.experiments.rows import parse_rows

ROWS = parse_rows(["zero-shot", "lora"])


def test_base_to_new() -> None:
    found = cells(base_to_new(["a", "b"]), ROWS, (1, 2))
    assert [cell.title for cell in found] == [
        "zero-shot, a", "lora, a base, 16-shot, seed 1", "zero-shot, b", "lora, b base, 16-shot, seed 1",
        "lora, a base, 16-shot, seed 2", "lora, b base, 16-shot, seed 2",
    ]  # fmt: skip
    assert all([test.subset for test in cell.tests] == ["base", "new"] for cell in found)


def test_few_shot_scores_what_learns_nothing_once() -> None:
    found = cells(few_shot(["a"]), ROWS, (1, 2, 3))
    assert [cell.sample.shots for cell in found if cell.row.label == "lora"] == [1, 2, 4, 8, 16] * 3
    assert sum(cell.row.label == "zero-shot" for cell in found) == 1


def test_protocols_share_trainings() -> None:
    icons = Source("icons")
    few, cross, shift = (
        few_shot(["icons"]),
        from_source(icons, others=("x", "y")),
        from_source(icons, domains=("emoji",)),
    )
    both = cells([*few, *cross, *shift], ROWS, (1,))
    assert len(both) == len(cells(few, ROWS, (1,)))
    (shared,) = (cell for cell in both if cell.sample.shots == 16)
    assert shared.tests == (
        Target(icons),
        Target(Source("x"), role="transfer"),
        Target(Source("y"), role="transfer"),
        Target(icons, domain="emoji", role="ood"),
    )


def test_robust_takes_all_images_and_generic_prompts() -> None:
    plan = from_source(Source("ImageNet", imagenet_80()), None, (), ("ImageNet-R",), ("DTD",), GENERIC)
    (cell,) = cells(plan, ROWS[1:], (1,))
    assert cell.sample.shots is None
    assert cell.sample.data.templates == imagenet_80()
    home, shifted, other = cell.tests
    assert (home.role, shifted.role, other.role) == ("id", "ood", "transfer")
    assert shifted.data.templates == imagenet_80()
    assert other.data.templates == ("a photo of a {}.",)


def test_the_laboratory_needs_no_words() -> None:
    domains = ("wild", "clutter", "sketch", "night", "emoji")
    others = tuple(f"lab-{name}" for name in ("food", "logos", "people", "travel", "effects"))
    robust = Source("lab-robust")
    assert make_plan("base-to-new", ["lab-food"]) == base_to_new(["lab-food"])
    assert make_plan("few-shot", ["lab-food"], shots=[1, 4]) == few_shot(["lab-food"], (1, 4))
    assert make_plan("cross-dataset", ["lab-robust"]) == from_source(robust, others=others)
    assert make_plan("domain-generalization", ["lab-robust"]) == from_source(robust, domains=domains)
    assert make_plan("robust", ["lab-robust"]) == from_source(robust, None, domains, others=others)


def test_a_suite_stands_for_its_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = find_suite("suite")
    assert everything is not None
    assert len(everything.members) == 12
    assert make_plan("base-to-new", ["suite"]) == base_to_new(everything.members)
    assert make_plan("few-shot", ["suite-dev", "lab-food"], shots=[4]) == few_shot(
        ["lab-clutter", "lab-food", "lab-people", "lab-colored"], [4]
    )
    for protocol, home in (("cross-dataset", "lab-things"), ("domain-generalization", "lab-robust"),
                           ("robust", "lab-robust")):  # fmt: skip
        assert make_plan(protocol, ["suite"]) == make_plan(protocol, [home])
    assert make_plan("cross-dataset", ["suite"], ["lab-food"]) == make_plan(
        "cross-dataset", ["lab-things"], ["lab-food"]
    )
    with pytest.raises(UsageError, match="suite-dev does not say what robust trains on: name one of its data sets"):
        make_plan("robust", ["suite-dev"])
    parts = [suite.members for name in ("suite-dev", "suite-report") if (suite := find_suite(name))]
    assert sorted(sum(parts, ())) == sorted(everything.members)
    eleven = find_suite("eleven")
    assert eleven is not None
    assert len(eleven.members) == 11
    assert all(catalog.find(name) for name in (*eleven.members, *eleven.shifts))
    with pytest.raises(DataError, match=r"suite stands for 12 data sets, for bench\. Name one: lab-things, lab-wild"):
        load_data("suite")
    with pytest.raises(DataError, match=r"'suit'.*Did you mean 'suite'"):
        load_data("suit")


def test_targets_are_domains_or_data(world: Path) -> None:
    photos = str(world / "photos")
    home = Source(photos)
    assert make_plan("cross-dataset", [photos], ["lab-food"]) == from_source(home, others=("lab-food",))
    found = make_plan("domain-generalization", ["lab-robust"], ["emoji"])
    assert found == from_source(Source("lab-robust"), domains=("emoji",))
    own, copy = ("a photo of a {}.",), str(world / "copy")  # the prompts that it is trained with; the same classes
    shutil.copytree(photos, copy)
    assert make_plan("domain-generalization", [photos], [copy]) == from_source(home, shifted=(copy,), own=own)


def test_a_target_that_is_neither_domain_nor_data() -> None:
    domains = load_data("lab-robust").domains
    said = rf"--targets emoij: not a domain of lab-robust. Did you mean 'emoji'\? Its domains: {', '.join(domains)}. N"
    with pytest.raises(DataError, match=said):
        make_plan("robust", ["lab-robust"], ["emoij"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"protocol": "base-to-new", "data": ["lab-food"], "shots": [1, 2]}, "takes one number of shots"),
        ({"protocol": "base-to-new", "data": ["lab-food"], "targets": ["emoji"]}, "has no targets"),
        ({"protocol": "few-shot", "data": ["lab-food"], "targets": ["emoji"]}, "has no targets"),
        ({"protocol": "few-shot", "data": ["lab-food"], "sources": ["emoji"]}, "--sources belongs to"),
        ({"protocol": "robust", "data": ["lab-food"], "shots": [4]}, "takes every training image"),
        ({"protocol": "robust", "data": ["lab-food", "icons"]}, "trains on one data set"),
        ({"protocol": "cross-dataset", "data": ["{photos}"]}, "needs data sets to score on"),
        ({"protocol": "domain-generalization", "data": ["{photos}"]}, "needs other domains"),
        (
            {"protocol": "domain-generalization", "data": ["lab-food"], "targets": ["lab-effects"]},
            "has other classes than lab-food",
        ),
    ],
)
def test_mistakes(words: dict, line: str, world: Path) -> None:
    words = {**words, "data": [name.format(photos=world / "photos") for name in words["data"]]}
    with pytest.raises(UsageError) as caught:
        make_plan(**words)
    assert line in str(caught.value)


def test_shifts_of_imagenet_take_its_prompts_even_under_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"imagenet": ("alarm clock", "bow"), "imagenet-r": ("bow",), "objectnet": ("alarm clock", "weight")}
    names = {"imagenet": "ImageNet", "imagenet-r": "ImageNet-R", "objectnet": "ObjectNet", "dtd": "DTD"}

    def opened(source: Source, root: Path | None) -> ImageData:
        own = classes.get(source.name, ("dots",))
        none = ImageSet(source.name, own, ("{}",), (), (), (), (), FileStore(Path()))
        return ImageData(names[source.name], own, ("{}",), (), {"train": none})

    monkeypatch.setattr(protocols, "open_data", opened)
    home, shifted = Source("imagenet", imagenet_80()), ("imagenet-r", "objectnet")
    assert make_plan("robust", ["imagenet"], [*shifted, "dtd"]) == from_source(
        home, None, (), shifted, ("dtd",), GENERIC
    )
    found = make_plan("domain-generalization", ["imagenet"], ["objectnet"])
    assert found == from_source(Source("imagenet"), shifted=("objectnet",), own=("{}",))


@pytest.mark.parametrize(("protocol", "target"), [("cross-dataset", "lab-robust"), ("robust", "plain")])
def test_what_is_trained_on_is_no_target(protocol: str, target: str) -> None:
    with pytest.raises(UsageError, match=f"--targets {target}: that is what is trained on"):
        make_plan(protocol, ["lab-robust"], [target, "lab-food"])


def test_a_source_needs_training_images() -> None:
    with pytest.raises(DataError, match="lab-robust has no training images in wild, only in plain"):
        make_plan("domain-generalization", ["lab-robust"], sources=["wild"])
