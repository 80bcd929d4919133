"""Values: dataclasses without a decorator."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import ClassVar

import pytest

from steadyclip.core.errors import UsageError
from steadyclip.core.spec import KNOWN, Spec, piece_name, replace
from steadyclip.methods import Method
from steadyclip.objectives import Plain as View


class Piece(Spec):
    kind: ClassVar[str] = "plain"

    size: int = 2
    rate: float = 0.5


class Larger(Piece):
    """Another default, without a type."""

    size = 8
    kind = "large"


class Longer(Larger):
    steps: int = 3


class Whole(Spec):
    pieces: tuple[Piece, ...] = (Piece(), Larger())
    file: Path | None = None


class NamedPiece(Piece):
    name = "named"


def test_a_subclass_is_a_frozen_value() -> None:
    assert Piece(3) == Piece(size=3) != Piece()
    assert hash(Piece(3)) == hash(Piece(size=3))
    assert repr(Longer()) == "Longer(size=8, rate=0.5, steps=3)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Piece().size = 3  # type: ignore[misc]
    assert Piece(2, 0.5) != Larger(2, 0.5)  # another class is another value


def test_an_assignment_without_a_type_is_a_new_default() -> None:
    assert (Piece().size, Larger().size, Longer().size, Longer(size=1).size) == (2, 8, 8, 1)
    assert [field.name for field in dataclasses.fields(Longer)] == ["size", "rate", "steps"]
    assert (Larger.kind, [f.name for f in dataclasses.fields(Piece) if f.name == "kind"]) == ("large", [])


def test_annotations_stay_the_ones_that_were_written() -> None:
    """An inherited type is a text that means something in its own module only."""
    assert inspect.get_annotations(Larger) == {}
    assert set(inspect.get_annotations(Longer)) == {"steps"}


def test_a_class_is_known_by_its_name() -> None:
    assert KNOWN["Longer"] is Longer
    assert (piece_name(Longer), piece_name(NamedPiece), piece_name(Whole)) == ("longer", "named", "whole")


def test_a_method_hides_no_piece_of_its_name() -> None:
    class Plain(Method):
        pass

    assert KNOWN["Plain"] is View
    assert "DRA" not in KNOWN


def test_replace_goes_down_a_path() -> None:
    whole = Whole()
    changed = replace(whole, ("pieces", 1, "rate"), 0.25)
    assert changed == Whole((Piece(), Larger(rate=0.25)))
    assert whole == Whole()
    assert replace(whole, (), 7) == 7


def test_a_requirement_names_knob_value_and_piece() -> None:
    Piece().require("size", True, "at least 1")
    with pytest.raises(UsageError, match=r"^knob size=2 of 'longer' must be at least 3\.$"):
        Longer(size=2).require("size", False, "at least 3")
    with pytest.raises(UsageError, match=r"^knob file=a/b of 'whole' must be a file\.$"):
        Whole(file=Path("a/b")).require("file", False, "a file")
