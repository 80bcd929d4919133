"""The drawings: names by one rule, two halves by team, nothing equal on both sides, the same bytes again."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from steadyclip.core.errors import DataError
from steadyclip_lab.drawings.captions import caption, with_article
from steadyclip_lab.drawings.equal import SAME, equals, print_of, rendered
from steadyclip_lab.drawings.lines import line_layer
from steadyclip_lab.drawings.sets import (
    DOWNSTREAM,
    LOGOS,
    RELATIVES,
    TEST,
    TRAIN,
    VERSION,
    Drawing,
    Package,
    capped,
)
from steadyclip_lab.drawings.shelf import FILES, FOLDER, shelf, write_shelf

LIST = Path(__file__).parents[2] / "lab" / "recipes" / "pretraining.tsv.xz"
SQUARE = '<path fill="currentColor" d="M2 2h12v12H2z"/>'


def make_package(folder: Path, version: str = VERSION, **sets: dict) -> Package:
    """A package with these sets, each given as the content of its file."""
    (folder / "json").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": version}))
    (folder / "collections.json").write_text(json.dumps({name: one["info"] for name, one in sets.items()}))
    for name, one in sets.items():
        (folder / "json" / f"{name}.json").write_text(json.dumps(one))
    return Package(folder)


def icon_set(*icons: str, **more) -> dict:
    info = {"name": "A set", "license": {"spdx": "MIT", "title": "MIT"}, "author": {"name": "A team"}}
    return {"info": info | more.pop("info", {}), "icons": {icon: {"body": SQUARE} for icon in icons}, **more}


def names(package: Package, name: str) -> dict[str, tuple[str, str]]:
    return {one.icon: (one.style, one.name) for one in package.drawings(name)}


class TestNames:
    def test_the_metadata_says_what_a_style_is(self, tmp_path: Path) -> None:
        package = make_package(
            tmp_path, ours=icon_set("bell", "bell-broken", "traffic-light", suffixes={"broken": "Broken", "": "Plain"})
        )
        assert names(package, "ours") == {
            "bell": ("", "bell"),
            "bell-broken": ("broken", "bell"),
            "traffic-light": ("", "traffic-light"),
        }

    def test_style_words_and_numbers_go_where_the_rest_has_several(self, tmp_path: Path) -> None:
        package = make_package(
            tmp_path, ours=icon_set("bell", "bell-outline-2", "traffic-light", "heart-broken", "heart")
        )
        assert names(package, "ours") == {
            "bell": ("", "bell"),
            "bell-outline-2": ("outline-2", "bell"),
            "traffic-light": ("", "traffic-light"),
            "heart-broken": ("", "heart-broken"),
            "heart": ("", "heart"),
        }

    def test_what_is_hidden_or_has_no_word_is_left_out(self, tmp_path: Path) -> None:
        content = icon_set("bell", "ab", "42")
        content["icons"]["clock"] = {"body": SQUARE, "hidden": True}
        assert names(make_package(tmp_path, ours=content), "ours") == {"bell": ("", "bell")}

    def test_emoji_have_one_tone_of_skin(self, tmp_path: Path) -> None:
        icons = ("hand", "hand-dark", "hand-medium-light-skin-tone", "new-moon-dark-side")
        package = make_package(tmp_path, ours=icon_set(*icons, info={"category": "Emoji"}))
        assert set(names(package, "ours")) == {"hand", "new-moon-dark-side"}

    def test_fluent_gives_the_size_nearest_to_24(self, tmp_path: Path) -> None:
        icons = ("bell-16-filled", "bell-20-filled", "bell-28-filled", "bell-48-regular")
        package = make_package(tmp_path, fluent=icon_set(*icons, suffixes={i[5:]: i for i in icons}))
        assert set(names(package, "fluent")) == {"bell-28-filled", "bell-48-regular"}

    def test_aliases_are_names_but_mirrored_ones_are_not(self, tmp_path: Path) -> None:
        content = icon_set(
            "plane", aliases={"airplane": {"parent": "plane"}, "back": {"parent": "plane", "hFlip": True}}
        )
        (one,) = make_package(tmp_path, ours=content).drawings("ours")
        assert one.also == ("airplane",)


class TestPackage:
    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"holds version 1\.0 of @iconify/json"):
            make_package(tmp_path, version="1.0")

    def test_no_package(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no unpacked npm package"):
            Package(tmp_path)

    def test_a_set_that_has_vanished(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the set ph has vanished"):
            make_package(tmp_path, ours=icon_set("bell")).drawings("ph")

    def test_what_pretrains(self, tmp_path: Path) -> None:
        package = make_package(
            tmp_path,
            ours=icon_set("bell"),
            ph=icon_set("bell"),
            feather=icon_set("bell"),
            logos=icon_set("bell", info={"category": "Logos"}),
            moving=icon_set("bell", info={"tags": ["Contains Animations"]}),
            copyleft=icon_set("bell", info={"license": {"spdx": "GPL-3.0", "title": "GPL"}}),
        )
        assert package.pretraining_sets() == ["ours"]

    def test_a_cap_does_not_depend_on_the_order(self, tmp_path: Path) -> None:
        drawings = make_package(tmp_path, ours=icon_set(*(f"thing-{a}" for a in "abcdefgh"))).drawings("ours")
        assert capped(drawings, 3) == capped(drawings[::-1], 3)
        assert len(capped(drawings, 3)) == 3


class TestEqual:
    def drawing(self, body: str, box: tuple[float, float, float, float] = (0, 0, 16, 16)) -> Drawing:
        return Drawing("ours", "ours", "thing", "thing", body, box, colored=False)

    def prints(self, *bodies: str) -> np.ndarray:
        found = [print_of(rendered(self.drawing(body)) or b"") for body in bodies]
        return np.stack([one for one in found if one is not None])

    def test_moved_and_scaled_is_equal_and_another_shape_is_not(self) -> None:
        disk, small, cross = (
            '<circle cx="8" cy="8" r="6"/>',
            '<circle cx="5" cy="6" r="3"/>',
            '<path d="M7 2h2v5h5v2H9v5H7V9H2V7h5z"/>',
        )
        places, how_like = equals(self.prints(small, cross), self.prints(disk, cross))
        assert places.tolist() == [0, 1]
        assert how_like[0] > SAME
        assert equals(self.prints(disk), self.prints(cross))[1][0] < SAME

    def test_nothing_to_see(self) -> None:
        png = rendered(self.drawing(""))
        assert png is not None
        assert print_of(png) is None

    def test_what_cannot_be_drawn(self) -> None:
        assert rendered(self.drawing("<path d=")) is None

    def test_a_wide_drawing_stands_in_the_middle(self) -> None:
        wide = self.drawing(SQUARE, (0, 0, 32, 16))
        assert 'viewBox="0 -8 32 32"' in wide.svg


def test_line_layer_keeps_black_strokes_alone() -> None:
    body = '<path fill="#f00" d="M1 1h9v9z"/><g fill="none" stroke="#000"><path d="M1 1h9"/></g>'
    lines = line_layer(Drawing("openmoji", "openmoji", "thing", "thing", body, (0, 0, 16, 16), colored=True))
    assert lines is not None
    assert not lines.colored
    assert "#f00" not in lines.body
    assert 'stroke="currentColor"' in lines.body


def test_captions_are_the_same_every_time() -> None:
    one = Drawing(
        "ours", "ours", "hot-dog", "hot-dog-thin", SQUARE, (0, 0, 16, 16), False, "thin", ("sausage",), ("food",)
    )
    assert caption(one) == caption(one)
    assert "a hot dog" in caption(one)
    assert "thin line drawing" in caption(one)
    assert with_article("umbrella") == "an umbrella"
    assert with_article("scissors") == "scissors"


class TestShelf:
    def test_every_drawing_is_of_a_downstream_set(self) -> None:
        assert {one.set for one in shelf()} <= DOWNSTREAM.keys()
        assert {one.team for one in shelf()} == TRAIN.keys() | TEST.keys()

    def test_the_same_drawings_give_the_same_bytes(self, tmp_path: Path) -> None:
        paths = write_shelf(reversed(shelf()), tmp_path)
        assert [path.name for path in paths] == list(FILES)
        # another liblzma may compress otherwise: what must agree is the content
        for path in paths:
            assert lzma.decompress(path.read_bytes()) == lzma.decompress((FOLDER / path.name).read_bytes())

    def test_hashes_are_those_of_the_drawings(self) -> None:
        by_key = {one.key: one for one in shelf()}
        for name in FILES:
            for line in lzma.decompress((FOLDER / name).read_bytes()).decode().splitlines():
                data = json.loads(line)
                assert by_key[f"{data['set']}:{data['icon']}"].digest == data["hash"]

    def test_no_test_drawing_equals_one_of_a_training_team(self) -> None:
        halves: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for one in shelf():
            png = rendered(one)
            print_ = None if png is None else print_of(png)
            assert print_ is not None, one.key
            halves[one.team in TRAIN].append(print_)
        _, how_like = equals(np.stack(halves[False]), np.stack(halves[True]))
        assert how_like.max() < SAME

    def test_credits_name_every_set(self) -> None:
        credits = (FOLDER / "ATTRIBUTION.md").read_text()
        for name in {one.set for one in shelf()}:
            assert f"(`{name}`)" in credits

    def test_small_enough_to_ship(self) -> None:
        assert sum((FOLDER / name).stat().st_size for name in FILES) <= 8e6


class TestPretrainingList:
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in lzma.decompress(LIST.read_bytes()).decode().splitlines()]

    def test_no_set_of_the_other_half(self) -> None:
        sets = {row[0] for row in self.rows()}
        assert len(sets) > 100
        assert not sets & (DOWNSTREAM.keys() | RELATIVES.keys() | set(LOGOS))

    def test_no_drawing_of_the_shelf(self) -> None:
        assert not {row[2] for row in self.rows()} & {one.digest for one in shelf()}
