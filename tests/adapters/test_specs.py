"""The specs of adapters: values whose knobs are checked, and which say what they change."""

import pytest
import torch

from steadyclip.adapters import AdapterSpec, Bottleneck, LowRank, Orthogonal, TokenRank, TowerWeights, Weights
from steadyclip.core.errors import UsageError
from steadyclip.models.testing import tiny

SPECS = (LowRank, Orthogonal, TokenRank, Bottleneck, Weights, TowerWeights)


@pytest.mark.parametrize("kind", SPECS)
def test_a_spec_is_a_value_that_adapts_the_chosen_towers_only(kind: type[AdapterSpec]) -> None:
    assert kind() == kind("both") != kind("image")
    for towers in ("both", "image", "text"):
        model = tiny("clip")
        spec = kind(towers)
        spec.attach(model)
        assert spec.touches == {"image", "text"} if towers == "both" else {towers}
        image, text = (model.encode_image(torch.ones(1, 3, 32, 32)), model.encode_text(["a cat"]))
        assert (image.requires_grad, text.requires_grad) == ("image" in spec.touches, "text" in spec.touches)
        assert bool(model.adapters) != spec.own_weights


@pytest.mark.parametrize(
    ("kind", "knobs", "message"),
    [
        (LowRank, {"rank": 0}, "knob rank=0 of 'low_rank' must be at least 1"),
        (LowRank, {"dropout": 1.0}, "dropout=1.0 of 'low_rank' must be from 0 to below 1"),
        (LowRank, {"layers": ()}, "layers=.* of 'low_rank' must be one layer or more, each once"),
        (Orthogonal, {"layers": ("fc1", "fc1")}, "layers=.* of 'orthogonal' must be one layer or more, each once"),
        (Orthogonal, {"blocks": 0}, "blocks=0 of 'orthogonal' must be at least 1"),
        (Orthogonal, {"neumann_terms": 0}, "neumann_terms=0 of 'orthogonal'"),
        (Orthogonal, {"constraint": "none", "storage": "packed"}, "storage='packed' of 'orthogonal' must be full"),
        (TokenRank, {"ranks": (8, 16)}, "ranks=.* of 'token_rank' must be whole numbers, the largest first"),
        (TokenRank, {"shares": (0.5, 0.5)}, "shares=.* must be 3 numbers above 0"),
        (TokenRank, {"scale": 0.0}, "scale=0.0 of 'token_rank' must be above 0"),
        (Bottleneck, {"first_block": 0}, "first_block=0 of 'bottleneck' must be at least 1"),
        (Bottleneck, {"rank": 0}, "rank=0 of 'bottleneck' must be at least 1"),
    ],
)
def test_knobs_out_of_range_are_named(kind: type[AdapterSpec], knobs: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**knobs)


def test_what_they_promise() -> None:
    assert [kind.mergeable for kind in SPECS] == [True, True, False, False, True, True]
    assert [kind.own_weights for kind in SPECS] == [False, False, False, False, True, True]
