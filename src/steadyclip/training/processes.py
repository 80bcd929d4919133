"""What the processes of one training agree on before its first step: where they meet, start, and how they share it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.objectives import as_objective
from steadyclip.training.run import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder


def joined(**options: Any) -> Accelerator:
    """The accelerator of this process, once it has met the others; ``options`` as ``Accelerator`` takes them.

    Raises:
        SteadyClipError: they cannot meet, as their port is in use or a process stays away.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if not dist.is_initialized():  # else a second training would stay on the device of the first, whatever it asks for
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return Accelerator(**options)
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        why = "the port is in use" if "EADDRINUSE" in str(error) else str(error).strip().splitlines()[0].rstrip(".")
        raise SteadyClipError(
            f"the processes cannot meet at {place} ({why}): give torchrun another port by --master-port, or on one "
            "machine --standalone, which finds one."
        ) from None


def expect_one_start(folder: RunFolder | None, step: int | None) -> None:
    """See that all processes go on from the same ``step`` (None: the training is finished), as they would otherwise
    wait for each other for ever.

    Raises:
        SteadyClipError: they do not; the line has the steps by process.
    """
    from accelerate.utils import gather_object

    starts = gather_object(["the end" if step is None else step])
    if len(set(starts)) > 1:
        at = f" {folder.path}" if folder else ""
        raise SteadyClipError(
            f"the processes would go on from different steps ({', '.join(map(str, starts))}): all of them must see "
            f"the run folder{at}, so put it onto a file system that they share."
        )


def check_shard(method: Method, model: DualEncoder, processes: int) -> None:
    """See that the weights of ``model``, to which ``method`` is attached, can be split over the ``processes``.

    Raises:
        UsageError: there is one process only, or the method needs what a split model cannot give.
    """
    if processes == 1:
        raise UsageError(
            "--shard splits the weights over several processes, and this is one: start it as torchrun "
            "--nproc-per-node N -m steadyclip train ..., or leave --shard out."
        )
    objective, states = as_objective(method.objective()), {read.state for read in method.reads(model)}
    hinders = {
        "it trains other parameters than the model's own weights": not method.own_weights,
        "it reads features of the pretrained model": "frozen" in states,
        "it reads features of averaged weights": "average" in states,
        "a term reads the weights themselves": any(term.needs_weights for _, term in objective.terms),
        "it combines gradients of several losses": bool(objective.groups),
    }
    if why := [reason for reason, holds in hinders.items() if holds]:
        raise UsageError(f"--shard cannot split the weights for {method.name}: {why[0]}. Leave --shard out.")
