"""Knobs of a method and its pieces: flat names, their order, their texts, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from steadyclip.adapters import AdapterSpec, Bottleneck, LowRank, Orthogonal
from steadyclip.core.errors import UsageError
from steadyclip.core.spec import KNOWN, Spec
from steadyclip.heads import CacheHead, HeadSpec
from steadyclip.methods import Average, Method, Recipe, get_method, methods
from steadyclip.methods.knobs import convert, knobs_of, with_knobs
from steadyclip.training import TrainConfig


class Two(Method):
    """Not registered."""

    name = "two"
    adapters = (LowRank(), Orthogonal())
    head = CacheHead()
    average = Average()
    rank: int = 7
    """The method's own."""
    file: Path | None = None
    """A file."""


class Alone(Method):
    name = "alone"
    adapters = (LowRank(), Orthogonal())


def test_the_methods_own_come_first_and_shared_names_are_qualified() -> None:
    paths = {name: knob.path for name, knob in knobs_of(Two()).items()}
    assert list(paths)[:2] == ["rank", "file"]
    assert paths["rank"] == ("rank",)
    assert paths["low_rank.rank"] == ("adapters", 0, "rank")  # the method has a knob of this name
    assert paths["low_rank.layers"] == ("adapters", 0, "layers")
    assert paths["orthogonal.layers"] == ("adapters", 1, "layers")
    assert "layers" not in paths
    assert paths["blocks"] == ("adapters", 1, "blocks")
    assert (paths["beta"], paths["decay"]) == (("head", "beta"), ("average", "decay"))
    assert not {"recipe", "adapters", "head", "average", "text"} & paths.keys()  # pieces and views are no knobs


def test_values_go_where_their_names_say() -> None:
    changed = with_knobs(Two(), {"rank": "3", "low_rank.rank": "5", "orthogonal.layers": "fc1", "beta": "2"})
    assert changed == Two((LowRank(rank=5), Orthogonal(layers=("fc1",))), CacheHead(beta=2.0), Average(), None, rank=3)
    assert with_knobs(Two(), {"orthogonal.blocks": 2}).adapters[1] == Orthogonal(blocks=2)  # more than is needed
    assert with_knobs(Two(), {"file": "a/b"}).file == Path("a/b")
    assert with_knobs(Two(file=Path("a")), {"file": "none"}).file is None


def test_knobs_are_plain_values_that_rebuild_the_method() -> None:
    method = Two((LowRank(layers=("q",)), Orthogonal()), file=Path("a/b"))
    knobs = method.knobs()
    assert (knobs["low_rank.layers"], knobs["file"]) == (["q"], "a/b")
    assert with_knobs(Two(), knobs) == method


def test_a_number_that_is_too_large_is_called_so() -> None:
    with pytest.raises(UsageError, match=r"knob steps=1000000000000 of method 'x' must be at most 1,000,000,000\."):
        convert("x", "steps", "1000000000000", int | None)
    with pytest.raises(UsageError, match=r"must be a whole number or none\."):
        convert("x", "steps", "many", int | None)


def test_an_ambiguous_knob_lists_its_owners() -> None:
    with pytest.raises(UsageError) as caught:
        with_knobs(Alone(), {"layers": "q"})
    assert str(caught.value) == (
        "knob 'layers' of method 'alone' belongs to several pieces: write low_rank.layers or orthogonal.layers."
    )


def test_an_unknown_knob_has_a_neighbor() -> None:
    with pytest.raises(UsageError, match=r"method 'alone' has no knob 'blcoks'. Did you mean 'blocks'\?"):
        with_knobs(Alone(), {"blcoks": 2})


def test_two_pieces_of_one_kind_need_a_name() -> None:
    class Second(LowRank):
        name = "second"

    with pytest.raises(UsageError, match="has two pieces 'low_rank': make a subclass of one"):
        knobs_of(Two((LowRank(), LowRank())))
    assert knobs_of(Two((LowRank(), Second())))["second.rank"].path == ("adapters", 1, "rank")


def test_only_what_is_not_the_default_is_in_a_row() -> None:
    assert get_method("lora").row == "lora"
    assert get_method("lora", {"rank": 4, "layers": ("q", "v")}).row == "lora[rank=4,layers=q:v]"
    assert get_method("dra", {"l1_weight": 0.5}).row == "dra"


def pieces() -> list[type[Spec]]:
    """All that can have knobs: registered methods, and every kind of piece of this package."""
    known = [cls for cls in KNOWN.values() if issubclass(cls, AdapterSpec | HeadSpec | Average)]
    return [*methods().values(), *(cls for cls in known if cls.__module__.startswith("steadyclip."))]


@pytest.mark.parametrize("cls", pieces(), ids=lambda cls: cls.__name__)
def test_no_knob_has_the_name_of_a_setting_of_the_training_and_each_has_a_text(cls: type[Spec]) -> None:
    settings = {field.name for kind in (Recipe, TrainConfig) for field in dataclasses.fields(kind)}
    spec = cls()
    knobs = {knob.rpartition(".")[2] for knob in knobs_of(spec)}
    assert not knobs & settings
    assert [name for name, knob in knobs_of(spec).items() if not knob.help] == []


def test_the_help_is_the_text_below_the_declaration() -> None:
    assert knobs_of(Bottleneck())["rank"].help == "r: columns of the bottleneck."
    assert knobs_of(get_method("bottleneck"))["rank"].help == "r: columns of the bottleneck."
