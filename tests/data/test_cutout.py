"""Where squares are cut, pixel by pixel."""

import random

import pytest
import torch

from steadyclip.data.cutout import attentive_cutout, cut_squares, cutout


def holes(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W): where all channels are 0; the images below have no 0."""
    return (images == 0).all(1)


def test_equals_a_loop_over_pixels() -> None:
    """DeVries and Taylor: the center is anywhere in the image, the square is cut as far as it lies inside."""
    images = torch.rand(20, 3, 8, 12) + 1
    got = cutout(images, 0.5, range(20))
    draws = [random.Random(str(seed)) for seed in range(20)]
    rows, columns = zip(*((draw.randrange(8), draw.randrange(12)) for draw in draws), strict=True)
    expected = images.clone()
    for b in range(20):
        for y in range(rows[b] - 2, rows[b] + 2):  # half of the shorter side: 4 pixels
            for x in range(columns[b] - 2, columns[b] + 2):
                if 0 <= y < 8 and 0 <= x < 12:
                    expected[b, :, y, x] = 0
    assert torch.equal(got, expected)
    assert images.min() >= 1  # the originals are untouched


def test_every_pixel_is_cut_sometimes_and_the_size_is_the_one_asked_for() -> None:
    found = holes(cutout(torch.ones(2000, 1, 8, 8), 0.25, range(2000)))
    assert found.any(0).all()
    assert found.sum((1, 2)).max() == 4
    assert found.sum((1, 2)).min() == 1  # a corner


def test_the_seed_of_an_image_decides_and_not_the_rest_of_the_batch() -> None:
    images = torch.ones(8, 3, 16, 16)
    first, second = cutout(images, 0.5, range(8)), cutout(images, 0.5, range(8, 16))
    assert torch.equal(cutout(images, 0.5, range(8)), first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([cutout(images[:3], 0.5, range(3)), cutout(images[3:], 0.5, range(3, 8))]), first)
    assert len(cutout(images[:0], 0.5, ())) == 0


def test_the_most_similar_region_is_cut() -> None:
    similarity = torch.zeros(2, 4, 4)
    similarity[0, 1:3, 2:4] = 1.0
    similarity[0, 3, 0] = 3.0  # one strong patch is less than a region of four
    similarity[1, :2, :2] = torch.tensor([[0.2, 0.3], [0.1, 0.9]])
    similarity[1] -= 5
    cut = holes(attentive_cutout(torch.ones(2, 3, 32, 32), similarity, 0.5))
    expected = torch.zeros(2, 32, 32, dtype=torch.bool)
    expected[0, 8:24, 16:32] = True
    expected[1, :16, :16] = True
    assert torch.equal(cut, expected)


@pytest.mark.parametrize(("side", "pixels"), [(0.1, 8), (0.25, 8), (0.4, 16), (0.9, 32)])
def test_regions_are_whole_patches(side: float, pixels: int) -> None:
    cut = holes(attentive_cutout(torch.ones(1, 3, 32, 32), torch.rand(1, 4, 4), side))
    assert cut.sum() == pixels**2


def test_squares_over_the_edge() -> None:
    cut = holes(cut_squares(torch.ones(1, 1, 4, 4), torch.tensor([[-1, 2]]), 3))
    assert cut[0].int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
