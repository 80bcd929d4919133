"""Blocks that are not understood are named."""

from __future__ import annotations

import pytest
from torch import nn

from steadyclip.core.errors import ModelError
from steadyclip.models import Block

PARTS = ("norm1", "norm2", "mlp", "q", "k", "v", "out", "fc1", "fc2")


def block(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name in PARTS:
        module.add_module(name, parts.get(name, nn.Linear(2, 2)))
    return module


def test_the_parts_are_found() -> None:
    module = block()
    view = Block.find(3, 2, module, PARTS)
    assert (view.index, view.num_heads, view.module) == (3, 2, module)
    assert all(getattr(view, name) is getattr(module, name) for name in PARTS)


def test_a_missing_part_and_an_unknown_layer_are_named() -> None:
    with pytest.raises(ModelError, match=r"unknown block Module: it has no 'attn.q'"):
        Block.find(0, 2, block(), [*PARTS[:3], "attn.q", *PARTS[4:]])
    with pytest.raises(ModelError, match=r"unknown layer in Module: 'fc1' is Conv1d, not nn.Linear"):
        Block.find(0, 2, block(fc1=nn.Conv1d(1, 1, 1)), PARTS)
