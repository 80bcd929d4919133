"""Checkpoints that are whole or not there: what is trained and the optimizer's state as safetensors, the rest as JSON.

A checkpoint is a folder ``step-00000100``. It is written beside its place under another name, flushed to the disk,
and renamed; a crash, a kill or a full disk leaves those that stood before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import ModelError, SteadyClipError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KEEP = 2
"""Checkpoints that stay; older ones go when a new one is whole."""

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")

Tensors = dict[str, "Tensor"]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk; ``state`` is its JSON, the tensors are read when they are asked for."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> Tensors:
        """The tensors of ``name`` ("trained" or "optimizer"), on the CPU."""
        return read_tensors(self.path / f"{name}.safetensors")


def save_checkpoint(folder: Path, step: int, parts: dict[str, Tensors], state: dict[str, Any]) -> Path:
    """Write ``folder/step-...`` from ``parts`` (name -> tensors) and ``state``; keeps the last ``KEEP``.

    Raises:
        SteadyClipError: it cannot be written; checkpoints that stood before are untouched.
    """
    final, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tensors in parts.items():
            write_tensors(temporary / f"{name}.safetensors", tensors)
        sizes = {name: (temporary / f"{name}.safetensors").stat().st_size for name in parts}
        _write(temporary / "state.json", json.dumps({"step": step, "sizes": sizes, **state}).encode())
        _flush(temporary)
        if final.exists():  # only a damaged one: a whole one would have been resumed from
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
    for old in _by_age(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint in ``folder``, passing over damaged ones; None when there is none."""
    for path in reversed(_by_age(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            state = json.loads((path / "state.json").read_bytes())
            if all((path / f"{name}.safetensors").stat().st_size == size for name, size in state["sizes"].items()):
                return Checkpoint(path, int(state["step"]), state)
    return None


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write and flush a safetensors file. Raises OSError, as plain files do."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error
    path.chmod(mode)  # it is written as a private temporary file, and results are meant to be read by others
    _flush(path)


def read_tensors(path: Path) -> Tensors:
    """The tensors in the safetensors file ``path``, on the CPU.

    Raises:
        ModelError: not there, a pickle, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        pickle = next((p for p in sorted(path.parent.glob("*")) if p.suffix in _PICKLES), None)
        found = f"; {pickle.name} is a pickle, which may run code when read and is never opened" if pickle else ""
        raise ModelError(f"{path} is not there{found}: train again, or point to a finished run.")
    try:
        return load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):  # torch.save, new and old
            what = "a pickle, which may run code when read, not safetensors:"
        else:
            what = f"damaged ({error}): remove it and"
        raise ModelError(f"{path} is {what} train again.") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> Tensors:
    """The optimizer's state under the parameters' names: ``"NAME:exp_avg"``."""
    import torch

    return {
        f"{names[parameter]}:{key}": value.detach().cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], tensors: Tensors) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    numbers = {names[p]: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in numbers:
            raise ModelError(f"the checkpoint has optimizer state for {parameter!r}, which is not trained here.")
        state.setdefault(numbers[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _by_age(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _flush(path)


def _flush(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
