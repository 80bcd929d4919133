"""How fast, and by which update rule. All pure functions: a resumed training needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from steadyclip.core.errors import require, require_choices
from steadyclip.methods.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises UsageError naming the field of ``recipe`` that makes no sense."""
    least = {"steps": 1, "steps_per_shot": 1, "batch_size": 1, "warmup_steps": 0, "learning_rate": 0, "weight_decay": 0,
             "views": 0}  # fmt: skip
    for name, low in least.items():
        value = getattr(recipe, name)
        require(recipe, name, value is None or low <= value < math.inf, f"{low} or more")
    for name in ("epochs", "clip_norm"):
        value = getattr(recipe, name)
        require(recipe, name, value is None or 0 < value < math.inf, "more than 0")
    for name in ("momentum", "beta2"):
        require(recipe, name, 0 <= getattr(recipe, name) < 1, "from 0 to below 1")
    require_choices(recipe)


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
    # Fused is one pass over memory, 9 % of a step on a processor less; but there it takes weight, gradient and moments
    # to lie alike in memory (torch 2.13), and says nothing where they do not, as with the gradient of a convolution.
    fused = all(p.is_contiguous() and p.device.type in ("cpu", "cuda") for p in parameters)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, recipe.beta2), fused=fused)
    optimizer.register_step_pre_hook(_make_gradients_contiguous)
    return optimizer


def _make_gradients_contiguous(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.contiguous()
