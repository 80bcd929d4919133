"""Packs and renderer: names without styles or brands, and images in the colors that were asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from steadyclip.core.errors import DataError
from steadyclip_lab.icons.packs import DOWNSTREAM, PRETRAINING, Drawing, drawings
from steadyclip_lab.icons.render import PLAIN, SIZE, Look, random_look, render

SQUARE = Drawing(
    "lucide", "outline", "square", '<svg viewBox="0 0 8 8" fill="currentColor"><path d="M2 2h4v4H2z"/></svg>'
)


def pixels(drawing: Drawing, look: Look = PLAIN, size: int = SIZE) -> np.ndarray:
    """(H, W, 3) values from 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(render(drawing, look, size))).convert("RGB"))


@pytest.mark.parametrize("pack", [*PRETRAINING, *DOWNSTREAM])
def test_a_pack_is_read_whole_and_without_brands(pack: str) -> None:
    found = drawings(pack)
    least = {
        "heroicons": 600,
        "lucide": 1600,
        "font-awesome": 1500,
        "openmoji": 1800,
        "bootstrap": 2000,
        "boxicons": 1400,
        "typicons": 300,
    }
    assert len(found) >= least.get(pack, 4500)
    assert [one.key for one in found] == sorted({one.key for one in found})
    assert not [one.key for one in found if one.style == "brands" or one.name.startswith("brand-")]


@pytest.mark.parametrize("pack", ["boxicons", "typicons"])
def test_glyphs_of_a_font_stand_upright_inside_their_image(pack: str) -> None:
    by_name = {one.name: one for one in drawings(pack)}
    down = by_name["down-arrow" if pack == "boxicons" else "arrow-down-thick"]
    rows, columns = np.nonzero(pixels(down)[..., 0] < 128)
    widths = [np.ptp(columns[rows == row]) for row in np.unique(rows)]
    assert max(widths[: len(widths) // 2]) > widths[-1], "the tip of an arrow down is below"
    for one in list(by_name.values())[::40]:
        image_HW = pixels(one)[..., 0]
        border = np.concatenate([image_HW[0], image_HW[-1], image_HW[:, 0], image_HW[:, -1]])
        assert (image_HW < 128).mean() > 0.01, one.key
        assert (border > 200).mean() > 0.9, one.key


def test_phosphor_has_each_drawing_in_six_styles() -> None:
    by_style: dict[str, set[str]] = {}
    for one in drawings("phosphor"):
        by_style.setdefault(one.style, set()).add(one.name)
    assert set(by_style) == {"thin", "light", "regular", "bold", "fill", "duotone"}
    assert len({frozenset(names) for names in by_style.values()}) == 1


def test_plain_is_black_on_white() -> None:
    image_HWC = pixels(SQUARE)
    assert image_HWC.shape == (SIZE, SIZE, 3)
    assert (image_HWC[0, 0] == 255).all()
    assert (image_HWC[SIZE // 2, SIZE // 2] == 0).all()
    # half of 0.875 of the width, squared
    assert (image_HWC < 128).mean() == pytest.approx((0.875 / 2) ** 2, abs=0.01)


def test_colors_scale_and_shift_are_obeyed() -> None:
    image_HWC = pixels(SQUARE, Look("#ff0000", "#0000ff", scale=0.5, shift=(16, 0)))
    red = (image_HWC == (255, 0, 0)).all(-1)
    assert red.mean() == pytest.approx(1 / 16, abs=0.005)
    rows, columns = np.nonzero(red)
    assert (round(rows.mean()), round(columns.mean())) == (32, 48)
    assert (image_HWC[0, 0] == (0, 0, 255)).all()


def test_emoji_keep_their_colors() -> None:
    heart = next(one for one in drawings("openmoji") if one.name == "red-heart")
    image_HWC = pixels(heart, Look("#00ff00", "#ffffff")).astype(int)
    assert (image_HWC[SIZE // 2, SIZE // 2, 0] - image_HWC[SIZE // 2, SIZE // 2, 1]) > 100


def test_looks_are_seeded_and_keep_the_drawing_inside() -> None:
    assert random_look("a") == random_look("a") != random_look("b")
    looks = [random_look(str(number)) for number in range(300)]
    for look in looks:
        assert max(map(abs, look.shift)) <= (1 - look.scale) * SIZE / 2
    light = [int(look.background[1:3], 16) > 128 for look in looks]
    assert np.mean(light) == pytest.approx(0.7, abs=0.1)
    assert all(int(random_look(str(number), dark_ground=0.0).background[1:3], 16) > 128 for number in range(50))


def test_broken_svg_is_named() -> None:
    with pytest.raises(DataError, match="lucide/outline/broken cannot be drawn"):
        render(Drawing("lucide", "outline", "broken", "<svg viewBox='0 0 8 8'><path"))
