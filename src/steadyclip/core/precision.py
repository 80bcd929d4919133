"""Arithmetic of the forward pass, in training and in scoring. Free of torch until it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from steadyclip.core.errors import UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
PRECISIONS = get_args(Precision)


def check_precision(precision: str) -> None:
    """Raises UsageError for a precision that is not known."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}.")


def best_device(name: str) -> str:
    """``auto`` as the accelerator, if there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Models run with ``precision`` inside: bf16 is autocast; weights, losses and features stay in fp32.

    On a processor, the fused attention is quick forward, but its backward pass is slow in bf16 for the short sequences
    of CLIP: a training step of `icons-tiny` takes 400 ms with it, 250 without (torch 2.13, one thread). So what needs
    gradients takes the plain form there, with its products in bf16 too, which would be in fp32 otherwise (280 ms).
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu" and torch.is_grad_enabled():
                stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
                stack.enter_context(_attention_in_bf16())
        yield


@contextlib.contextmanager
def _attention_in_bf16() -> Iterator[None]:
    """The products of the plain attention; the switch is one for all devices, whatever the name of its module."""
    from torch.backends import cuda

    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        cuda.allow_fp16_bf16_reduction_math_sdp(before)
