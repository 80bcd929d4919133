"""The shapes that tensors have in their names are checked in every test: see shapes.py."""

import inspect

import pytest
import torch
from jaxtyping import TypeCheckError

from shapes import checked, shape_of
from steadyclip.data.cutout import cut_squares
from steadyclip.evaluation.metrics import top1
from steadyclip.models import DualEncoder


@pytest.mark.parametrize(
    ("name", "shape"),
    [("image_BD", "B D"), ("slot_Kcc", "K c c"), ("images_B3HW", "B 3 H W"), ("labels", None), ("S", None)],
)
def test_a_name_says_its_shape(name: str, shape: str | None) -> None:
    assert shape_of(name) == shape


def test_a_wrong_shape_is_caught_in_each_kind_of_function() -> None:
    with pytest.raises(TypeCheckError, match="labels_N"):
        top1(torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeCheckError, match="images_BCHW"):
        cut_squares(torch.zeros(3, 8, 8), torch.zeros(1, 2, dtype=torch.long), 2)
    with pytest.raises(TypeCheckError, match="images_BCHW"):
        DualEncoder.encode_image(None, torch.zeros(3, 8, 8))  # type: ignore[arg-type]


def test_what_is_returned_is_checked() -> None:
    def halve(x_BD: torch.Tensor) -> torch.Tensor:
        half_BD = x_BD[:, ::2]
        return half_BD

    halve.__annotations__ = {"x_BD": "Tensor", "return": "Tensor"}
    assert checked(halve)(torch.zeros(2, 1)).shape == (2, 1)
    with pytest.raises(TypeCheckError, match="return"):
        checked(halve)(torch.zeros(2, 4))


def test_names_and_annotations_stay() -> None:
    assert hasattr(top1, "checked_shapes")
    assert top1.__name__ == "top1"
    assert list(inspect.signature(top1).parameters) == ["predicted_N", "labels_N"]
