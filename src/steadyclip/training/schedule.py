"""The optimizer and its learning rate, a pure function of the step: a resumed training needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steadyclip.core.errors import ModelError
from steadyclip.methods.recipe import Recipe
from steadyclip.models.sharding import is_split, part_like, whole


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate of step ``step`` (the first is 0) of ``steps``.

    The warm-up rises linearly and reaches the peak with its last step; the cosine then falls towards 0, which it
    would reach one step after the last.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW or SGD. Weight decay spares vectors and scalars: gains, biases and the logit scale."""
    parameters = list(parameters)
    kinds = {p: (p.ndim >= 2, is_split(p)) for p in parameters}  # a fused step takes no whole and split ones together
    groups = [
        {"params": [p for p in parameters if kinds[p] == kind], "weight_decay": recipe.weight_decay if kind[0] else 0.0}
        for kind in sorted({*kinds.values()}, reverse=True)
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    # Fused AdamW makes a step on a CPU 9 % faster. But there it silently goes wrong (torch 2.13) where weight, gradient
    # and moments do not have the same memory layout, as with the gradient of a convolution.
    fused = all(p.is_contiguous() and p.device.type in ("cpu", "cuda") for p in parameters)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, recipe.beta2), fused=fused)
    optimizer.register_step_pre_hook(_make_gradients_contiguous)
    return optimizer


def _make_gradients_contiguous(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.contiguous()


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """The optimizer's state on the CPU, whole, under the parameters' names: ``"NAME:exp_avg"``."""
    return {
        f"{names[parameter]}:{key}": whole(value.detach()).cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave. Raises ModelError where a parameter is not trained here."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {names[parameter]: i for i, parameter in enumerate(own)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in numbers:
            raise ModelError(f"the checkpoint has optimizer state for {parameter!r}, which is not trained here.")
        place = numbers[parameter]
        of_weights = tensor.shape == own[place].shape  # a count of steps is not
        state.setdefault(place, {})[key] = part_like(own[place], tensor) if of_weights else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
