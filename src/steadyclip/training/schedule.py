"""The optimizer and its learning rate, a pure function of the step: a resumed training needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steadyclip.core.errors import ModelError
from steadyclip.methods.recipe import Recipe


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
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
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
    """The optimizer's state on the CPU, under the parameters' names: ``"NAME:exp_avg"``."""
    return {
        f"{names[parameter]}:{key}": value.detach().cpu()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave. Raises ModelError where a parameter is not trained here."""
    numbers = {names[p]: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in numbers:
            raise ModelError(f"the checkpoint has optimizer state for {parameter!r}, which is not trained here.")
        state.setdefault(numbers[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
