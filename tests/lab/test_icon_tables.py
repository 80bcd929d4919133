"""The tables name only what the packs hold, each drawing once, and the split keeps drawings apart."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import pytest

from steadyclip_lab.icons.packs import DOWNSTREAM, drawings
from steadyclip_lab.icons.tables import SHARES, TABLES, TRAINED, read_table, split_drawings

SIZES = {
    "icons": (50, 70),
    "icon-concepts": (140, 160),
    "icon-animals": (15, 40),
    "icon-food": (30, 60),
    "icon-transport": (25, 60),
    "icon-nature": (30, 60),
    "icon-objects": (60, 120),
    "icon-symbols": (40, 80),
}


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Pack -> names that are there in every style that the data sets use (font-awesome: solid)."""
    styles: dict[str, dict[str, set[str]]] = {pack: defaultdict(set) for pack in DOWNSTREAM}
    for pack in DOWNSTREAM:
        for drawing in drawings(pack):
            if (pack, drawing.style) != ("font-awesome", "regular"):
                styles[pack][drawing.style].add(drawing.name)
    return {pack: set.intersection(*names.values()) for pack, names in styles.items()}


@pytest.mark.parametrize("data_set", TABLES)
def test_every_drawing_is_in_its_pack(data_set: str, known: dict[str, set[str]]) -> None:
    for one in read_table(data_set):
        for concept in one.concepts:
            assert any(concept.names.values()), f"{one.name}: {concept.name} has no drawing"
            for pack, names in concept.names.items():
                assert set(names) <= known[pack], f"{one.name}: not in {pack}: {set(names) - known[pack]}"
                assert not [name for name in names if name.endswith("-logo")], "brands are not things"


@pytest.mark.parametrize("data_set", TABLES)
def test_classes_are_distinct_and_a_drawing_is_in_one_of_them_only(data_set: str) -> None:
    classes = read_table(data_set)
    smallest, largest = SIZES[data_set]
    assert smallest <= len(classes) <= largest
    names = [one.name for one in classes]
    assert len(set(names)) == len(names)
    assert not {one.also for one in classes} & set(names), "a second name is another class's name"
    used = Counter(
        (pack, name) for one in classes for each in one.concepts for pack, names in each.names.items() for name in names
    )
    assert [drawing for drawing, count in used.items() if count > 1] == []


def test_a_name_stands_for_one_concept_whoever_drew_it() -> None:
    owners = defaultdict(set)
    for one in read_table("icons"):
        for concept in one.concepts:
            for name in {name for names in concept.names.values() for name in names}:
                owners[name].add((one.name, concept.name))
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}


def test_split_has_its_shares_in_every_class_and_trains_on_teams_that_draw_lines() -> None:
    total = Counter()
    for one in read_table("icons"):
        splits = split_drawings(one)
        lines = Counter(split for (pack, _), split in splits.items() if pack in TRAINED)
        assert set(lines) == set(SHARES), one.name
        assert all(split == "test" for (pack, _), split in splits.items() if pack not in TRAINED)
        assert any(split == "test" for (pack, _), split in splits.items() if pack == "phosphor")  # fill and duotone
        total += lines
    for split, share in SHARES.items():
        assert total[split] / total.total() == pytest.approx(share, abs=0.06)


def test_split_does_not_depend_on_the_order_of_the_table() -> None:
    for one in read_table("icons"):
        assert split_drawings(dataclasses.replace(one, concepts=one.concepts[::-1])) == split_drawings(one)


def test_base_and_new_are_fixed() -> None:
    """Every published number of `icons` depends on this order: changing it is changing the data set."""
    names = [one.name for one in read_table("icons")]
    assert len(names) == 67
    assert (names[0], names[33], names[34], names[66]) == (
        "chart or graph",
        "bus or train",
        "pizza or sandwich",
        "hammer or tool",
    )
