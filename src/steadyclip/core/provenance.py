"""Which code made a record."""

from __future__ import annotations

import functools
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import steadyclip


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, without importing it."""
    return {
        "steadyclip": steadyclip.__version__,
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


def numeric_flags(device: str = "cpu") -> dict[str, Any]:
    """What else changes the last digits of sums, beside device and threads: the processor's instructions, and switches
    of torch; on a GPU, the arithmetic of the frozen model, too (``core.precision.tf32``)."""
    import torch
    from torch import backends

    return {
        "cpu": backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": backends.cudnn.benchmark,
        **({"frozen_float32": "tf32"} if device == "cuda" else {}),
    }


@functools.cache
def commit() -> str | None:
    """Commit of the source checkout, "-dirty" when files differ from it; None for an installed package."""
    folder = Path(steadyclip.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # A package installed somewhere below another project's checkout is not tracked there.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
