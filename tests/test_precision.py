"""Arithmetic: what bf16 changes, how little, and that nothing stays switched behind it."""

from __future__ import annotations

import pytest
import torch
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention

from steadyclip.core.errors import UsageError
from steadyclip.core.precision import arithmetic

CPU = torch.device("cpu")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UsageError, match=r"precision='fp16' must be one of auto, fp32, bf16"), arithmetic(CPU, "fp16"):  # pyright: ignore
        pass


def test_attention_and_its_gradient_are_those_of_fp32() -> None:
    """Two heads over 65 tokens, as in a small image tower; bf16 has 8 bits."""
    torch.manual_seed(0)
    found = []
    inputs = [torch.randn(4, 2, 65, 16) for _ in range(3)]
    for precision in ("fp32", "bf16"):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        q, k, v = (x.to(dtype, copy=True).requires_grad_() for x in inputs)
        with arithmetic(CPU, precision):
            mixed = scaled_dot_product_attention(q, k, v)
        mixed.float().square().sum().backward()
        assert q.grad is not None
        found.append((mixed.detach().float(), q.grad.float()))
    for fp32, bf16 in zip(*found, strict=True):
        assert not torch.equal(fp32, bf16)
        assert torch.nn.functional.cosine_similarity(fp32.flatten(), bf16.flatten(), dim=0) > 0.999


def test_the_switch_is_put_back_also_after_an_error() -> None:
    assert not cuda.fp16_bf16_reduction_math_sdp_allowed()
    with arithmetic(CPU, "bf16"):
        assert cuda.fp16_bf16_reduction_math_sdp_allowed()
        assert torch.is_autocast_enabled("cpu")
    with pytest.raises(KeyError), arithmetic(CPU, "bf16"):
        raise KeyError
    assert not cuda.fp16_bf16_reduction_math_sdp_allowed()
    assert not torch.is_autocast_enabled("cpu")


def test_what_needs_no_gradients_keeps_the_fused_attention() -> None:
    with torch.inference_mode(), arithmetic(CPU, "bf16"):
        assert torch.is_autocast_enabled("cpu")
        assert cuda.flash_sdp_enabled()
        assert not cuda.fp16_bf16_reduction_math_sdp_allowed()
    with arithmetic(CPU, "bf16"):
        assert not cuda.flash_sdp_enabled()
    assert cuda.flash_sdp_enabled()
