"""A model whose weights are split over processes (FSDP2): each keeps a part of every weight, its gradient and moments.

Before a block runs, its weights are gathered, and let go of behind it. What is kept or handed on outside of passes is
a part of a tensor: ``whole`` gathers it and ``part_like`` splits. Both are for all processes at once, in one order.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steadyclip.core.errors import UsageError

if TYPE_CHECKING:
    from steadyclip.models.encoder import DualEncoder


def split_over_processes(model: DualEncoder, device: torch.device) -> DualEncoder:
    """A copy of ``model`` on ``device`` whose weights are split over all processes; ``model`` stays as it is.

    Scalars stay whole: the logit scale and bias are read outside of any pass. There is no frozen copy, so that
    ``frozen`` refuses: swapping whole weights into such a model is undone by its hooks, without a word.

    Source: Zhao et al. 2023 (arXiv 2304.11277), as ``torch.distributed.fsdp.fully_shard``.

    Raises:
        UsageError: torch is older than 2.7.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise UsageError(f"--shard needs torch 2.7 or newer, and this is {torch.__version__}: pip install -U torch.")
    # deepcopy takes what its memo has for an object: None in the place of the frozen copy
    split = copy.deepcopy(model, {id(model._frozen_copy): None})
    scalars = {weight for weight in split.parameters() if weight.numel() == 1}
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    # a feature may be a view of the last block's tokens, and nothing changes it in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks = [block.module for tower in (split.image_tower, split.text_tower) for block in tower.blocks]
    for module in (*blocks, split):
        # By default the root would keep its weights, and after a pass without gradients use them beyond the next step.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    return split


def is_split(tensor: Tensor) -> bool:
    """Whether this process has only a part of ``tensor``."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split."""
    return tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def part_like(own: Any, value: Tensor) -> Tensor:
    """``value``, which is whole, as ``own`` is: split in the same way, or whole."""
    if not is_split(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Shorten the gradients of all ``parameters`` together to the length ``most``, where it is larger."""
    having = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [[p for p in having if is_split(p) == split] for split in (True, False)]  # torch cannot add the two up
    kinds = [kind for kind in kinds if kind]
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, most, norm)
