"""Checkpoints that are either complete or not there: tensors as safetensors, the rest as JSON.

A checkpoint is a folder ``step-00000100``. It is written under a temporary name, flushed to the disk, and then renamed,
so a crash or a full disk leaves the earlier ones as they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.core.files import file_digest
from steadyclip.core.progress import warn
from steadyclip.core.schema import checksum

if TYPE_CHECKING:
    from torch import Tensor

KEEP = 2
"""Number of checkpoints that are kept."""

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")

Tensors = dict[str, "Tensor"]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk; ``state`` is its JSON, tensors are read on demand."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> Tensors:
        """The tensors of the part ``name`` ("trained", "optimizer", "average"), on the CPU."""
        return read_tensors(self.path / f"{name}.safetensors")


def save_checkpoint(folder: Path, step: int, parts: dict[str, Tensors], state: dict[str, Any]) -> Path:
    """Write ``folder/step-...`` from ``parts`` (name -> tensors) and ``state``; keeps the last ``KEEP``.

    Raises:
        SteadyClipError: it cannot be written; earlier checkpoints are untouched.
    """
    final, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        sums = {name: _write(temporary / f"{name}.safetensors", to_bytes(part)) for name, part in parts.items()}
        content = {"step": step, "sums": sums, **state}
        _write(temporary / "state.json", json.dumps({**content, "checksum": checksum(content)}).encode())
        _flush(temporary)
        if final.exists():  # only a damaged one: a complete one would have been resumed from
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        good = newest_checkpoint(folder)
        survivor = f"The last good one is {good.path.name}" if good else "There is no earlier one"
        raise SteadyClipError(
            f"training stopped: the checkpoint of step {step} cannot be written to {folder} "
            f"({error.strerror or error}). {survivor}; make room and give the same command again to go on from there."
        ) from error
    for old in _by_step(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The last complete checkpoint in ``folder``, skipping damaged ones; None when there is none."""
    for path in reversed(_by_step(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            state = json.loads((path / "state.json").read_bytes())
            parts = {name: file_digest(path / f"{name}.safetensors") for name in state["sums"]}
            if parts == state["sums"] and state["checksum"] == checksum(state):
                return Checkpoint(path, int(state["step"]), state)
        warn(f"{path} is damaged, and left out")
    return None


def to_bytes(tensors: Tensors) -> bytes:
    """The content of a safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def read_tensors(path: Path) -> Tensors:
    """The tensors in the safetensors file ``path``, on the CPU.

    Raises:
        ModelError: not there, damaged, or a pickle, which is never opened.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        pickle = next((p for p in sorted(path.parent.glob("*")) if p.suffix in _PICKLES), None)
        found = f"; {pickle.name} is a pickle, which may run code when read and is never opened" if pickle else ""
        raise ModelError(f"{path} is not there{found}: train again, or point to a finished run.")
    try:
        return refuse_nan(load_file(path), path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}.") from None
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):  # torch.save, new and old
            what = "a pickle, which may run code when read, not safetensors:"
        else:
            what = f"damaged ({error}): remove it and"
        raise ModelError(f"{path} is {what} train again.") from None


def refuse_nan(tensors: Tensors, path: Path) -> Tensors:
    """The ``tensors`` in the file ``path``. Raises ModelError where one holds nan or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{path} holds values that are not numbers ({name}): it is damaged, train again.")
    return tensors


def _by_step(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    _flush(path)
    return file_digest(path)


def _flush(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
