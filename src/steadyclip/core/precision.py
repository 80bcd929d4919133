"""Arithmetic of the forward pass, and the memory of the process. Free of torch until it is used."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.core.progress import warn

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
AskedPrecision = Literal["auto", "fp32", "bf16"]
"""What users say; `auto` is bf16 on a GPU that has it, and fp32 elsewhere."""


def best_device(name: str) -> str:
    """The device that ``name`` stands for: `cpu`, `mps`, `cuda`, `cuda:N`, or `auto`, which is CUDA where there is one.

    Raises:
        UsageError: another name, or a device that is not there.
    """
    if name == "cpu":  # without torch, so that the command line stays quick
        return name
    import torch

    count = torch.cuda.device_count()
    there = ["cpu", *["mps"] * torch.backends.mps.is_available(), *["cuda"] * bool(count)]
    there += [f"cuda:{i}" for i in range(count)]
    if name == "auto":
        return "cuda" if count else "cpu"
    if name not in there:
        raise UsageError(f"device {name!r} is not there: one of {', '.join(there)}, or auto.")
    return name


def best_precision(asked: AskedPrecision, device: str | torch.device) -> Precision:
    """The precision that ``asked`` stands for on ``device``. A GPU without bf16 takes fp32, and says so once.

    Raises:
        UsageError: a precision that is not known.
    """
    if asked not in get_args(AskedPrecision):
        raise UsageError(f"precision={asked!r} must be one of {', '.join(get_args(AskedPrecision))}.")
    if not str(device).startswith("cuda"):
        return "fp32" if asked == "auto" else asked
    return "fp32" if asked == "fp32" or not _has_bf16(str(device)) else "bf16"


@functools.cache
def _has_bf16(device: str) -> bool:
    import torch

    with torch.cuda.device(device):
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    if not there:
        warn(f"{torch.cuda.get_device_name(device)} cannot compute in bf16: fp32 is taken instead")
    return there


@contextlib.contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """On a GPU, float32 products inside have 10 bits of mantissa: enough for features of the frozen model."""
    import torch

    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def no_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory has run out, on a GPU or in the machine."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Raises SteadyClipError, one line with what was tried and what helps, where memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
        if not no_memory(error):
            raise
        raise SteadyClipError(f"out of memory: {what}. {advice}") from None


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: AskedPrecision) -> Iterator[None]:
    """Models run with ``precision`` inside: bf16 is autocast; weights, losses and features stay in fp32.

    On a processor, the backward pass of the fused attention is slow in bf16 for the short sequences of CLIP: a training
    step of a CLIP with 5 million weights takes 400 ms with it, 250 without (torch 2.13, one thread). So what needs
    gradients takes the plain form there, with its products in bf16 too, which would be in fp32 otherwise (280 ms).

    Raises:
        UsageError: a precision that is not known.
    """
    precision = best_precision(precision, device)
    import torch
    from torch.backends import cuda
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with contextlib.ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu" and torch.is_grad_enabled():
                stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
                # This switch is one for all devices, whatever the name of its module.
                before = cuda.fp16_bf16_reduction_math_sdp_allowed()
                stack.callback(cuda.allow_fp16_bf16_reduction_math_sdp, before)
                cuda.allow_fp16_bf16_reduction_math_sdp(True)
        yield


# Numbers of glibc's malloc.h; how much is kept; the largest block for which glibc allows it.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST_BLOCK = 512 * 2**20, 32 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to 512 MB, for its next step. For programs of ours, not for a library.

    Each pass through a model frees and takes the same blocks. By itself glibc gives large ones back to the system,
    which zeroes them again, page by page: a fifth of the time of scoring with a small CLIP in bf16, 4 % of a step of
    training (one thread). Does nothing where the C library is another one.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
            libc.mallopt(_TRIM_THRESHOLD, _KEPT)
