"""Class by class: a change of a few images is no news."""

from __future__ import annotations

import pytest

from steadyclip.report.classes import ClassRow


@pytest.mark.parametrize(
    ("images", "before", "after", "sure"),
    [
        (18, 3, 12, True),
        (20, 5, 8, False),
        (26, 13, 16, False),
        (400, 200, 260, True),
        (400, 260, 200, True),
        (0, 0, 0, False),
    ],
)
def test_a_change_of_few_images_may_be_chance(images: int, before: int, after: int, sure: bool) -> None:
    assert ClassRow("a", images, before, after).sure is sure
