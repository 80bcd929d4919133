"""A method on a tiny model: its terms, its steps, and what goes through the towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadyclip.methods import Method
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.objectives import Batch, Features, as_objective
from steadyclip.training.step import Step

NAMES = ("cat", "dog", "sea lion", "owl")
TEMPLATES = ("a photo of a {}.", "an icon of a {}.")


def make_batch(count: int = 6, classes: int = len(NAMES), seed: int = 1, **streams: Mapping[str, Any]) -> Batch:
    """Random images, labels in turn."""
    images_BCHW = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    keys = tuple(f"{i}.png" for i in range(count))
    return Batch(torch.arange(count) % classes, keys, images_BCHW, streams=streams)


def attached(
    method: Method, family: str = "clip", names: Sequence[str] = NAMES, std: float | None = None
) -> DualEncoder:
    """The method on a tiny model; ``std``: adapters are drawn at random, as if they had been trained."""
    model = tiny(family)
    torch.manual_seed(0)
    method.attach(model, names)
    for parameter in model.adapters.parameters() if std else ():
        nn.init.normal_(parameter, std=std)
    return model


def filled(
    method: Method,
    model: DualEncoder,
    batch: Batch,
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
    seed: int = 0,
) -> Features:
    """All that the objective reads, without gradients."""
    step = Step(method, model, names, templates)
    f = step.planner.features(names, templates, batch, seed=seed)
    step.planner.fill(f, step.reads)
    return f


def terms(method: Method, model: DualEncoder, batch: Batch, **options: Any) -> dict[str, Tensor]:
    """The weighted terms of one step, without gradients."""
    f = filled(method, model, batch, **options)
    return {name: term.detach() for name, term in as_objective(method.objective())(f).items()}


def trained(step: Step, batch: Batch, steps: int, rate: float, optimizer: Any = torch.optim.Adam) -> list[dict]:
    """Plain steps on one batch; the terms of each."""
    update, found = optimizer(step.trained.values(), lr=rate), []
    for _ in range(steps):
        update.zero_grad()
        found.append(step.gradients(batch, seed=0))
        update.step()
    return found


def encoded(model: DualEncoder, batch: Batch, names: Sequence[str] = NAMES, template: str = TEMPLATES[0]):
    """Unit features of images and class prompts by the model's own calls, as a reference."""
    with torch.no_grad():
        return model.encode_image(batch.images_BCHW), model.encode_text([template.format(name) for name in names])
