"""The parallel bottleneck against its formula, one token at a time."""

import pytest
import torch
from torch import nn

from steadyclip.adapters import Bottleneck, BottleneckBlock
from steadyclip.core.errors import UsageError
from steadyclip.models.testing import tiny


@pytest.mark.parametrize(("activation", "phi"), [("relu", torch.relu), ("gelu", nn.functional.gelu)])
def test_equals_the_formula_token_by_token(activation, phi) -> None:
    block = tiny("clip").image_tower.blocks[0]
    torch.manual_seed(0)
    adapter = BottleneckBlock(block, Bottleneck(scale=0.5, activation=activation), rank=3)
    x_BND = torch.randn(2, 4, 32)
    plain_BND = block.mlp(x_BND)
    adapter.install()
    assert torch.equal(block.mlp(x_BND), plain_BND)  # it starts at zero
    nn.init.normal_(adapter.up)
    nn.init.normal_(adapter.bias)
    got_BND = block.mlp(x_BND)
    for b in range(2):
        for n in range(4):
            hidden = [phi(adapter.down[r] @ x_BND[b, n] + adapter.bias[r]) for r in range(3)]
            delta = sum(hidden[r] * adapter.up[:, r] for r in range(3))
            torch.testing.assert_close(got_BND[b, n], plain_BND[b, n] + 0.5 * delta)


def test_it_stands_in_the_upper_two_thirds_of_both_towers() -> None:
    model = tiny("clip")
    model.image_tower.blocks = model.image_tower.blocks * 6  # 12 and 2 blocks
    keys = []
    model.attach = lambda key, adapter: keys.append(key)
    Bottleneck(rank=2).attach(model)
    assert len(keys) == 8 + 2
    keys.clear()
    Bottleneck("text", rank=2, first_block=2).attach(model)
    assert keys == ["text_1_mlp"]


def test_a_first_block_beyond_the_last_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"first_block=3, but the image tower of tiny-clip has 2 blocks"):
        Bottleneck(rank=2, first_block=3).attach(tiny("clip"))
