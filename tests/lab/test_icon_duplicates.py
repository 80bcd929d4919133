"""The same drawing in two packs is found by its pixels, whatever it is called."""

from __future__ import annotations

import pytest

from steadyclip_lab.icons.duplicates import SAME, find_same, same
from steadyclip_lab.icons.packs import DOWNSTREAM, PRETRAINING, Drawing, drawings
from steadyclip_lab.icons.samples import plan

HOUSE = "M2 10L12 2l10 8v12H2z"


def _drawing(pack: str, name: str, body: str) -> Drawing:
    return Drawing(pack, "filled", name, f'<svg viewBox="0 0 24 24" fill="currentColor">{body}</svg>')


def test_size_and_place_do_not_hide_a_copy_and_another_shape_is_none() -> None:
    first = [
        _drawing("mdi", "house", f'<path d="{HOUSE}"/>'),
        _drawing("mdi", "disc", '<circle cx="12" cy="12" r="9"/>'),
        _drawing("mdi", "ring", '<circle cx="12" cy="12" r="9"/><circle cx="12" cy="12" r="5" fill="#fff"/>'),
        _drawing("mdi", "blank", ""),
    ]
    second = [
        _drawing("lucide", "home", f'<path transform="translate(9 8) scale(0.5)" d="{HOUSE}"/>'),
        _drawing("lucide", "square", '<path d="M3 3h18v18H3z"/>'),
    ]
    found = list(find_same(first, second))
    assert [(key, other) for key, other, _ in found] == [("mdi/filled/house", "lucide/filled/home")]
    assert SAME <= found[0][2] <= 1 + 1e-5


def test_what_is_listed_is_left_out_of_the_pretraining_pairs() -> None:
    listed = same()
    known = {pack: {one.key for one in drawings(pack)} for pack in (*PRETRAINING, *DOWNSTREAM)}
    for key, other in listed.items():
        assert key in known[key.split("/")[0]], key
        assert other in known[other.split("/")[0]], other
    pairs = {sample.drawing.key for sample in plan("pretrain")}
    assert not pairs & listed.keys()
    assert len(pairs) + len(listed) == sum(len(known[pack]) for pack in PRETRAINING)


@pytest.mark.slow
def test_no_pair_is_left_that_equals_a_downstream_drawing() -> None:
    pairs = [sample.drawing for sample in plan("pretrain")]
    others = [one for pack in DOWNSTREAM for one in drawings(pack) if not one.colored]
    assert list(find_same(pairs, others)) == []
