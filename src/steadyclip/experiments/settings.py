"""How methods are trained on a model that their published recipes were not made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steadyclip.core.errors import UsageError
from steadyclip.methods.recipe import Recipe

RecipeChoice = Literal["auto", "published"]


@dataclass(frozen=True)
class Choice:
    """The recipe of one method, and the knobs that go with it. Variants of the method start from both."""

    recipe: Recipe
    knobs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """``choices`` by method; a method that is not among them keeps its published recipe. ``config``: fields of
    ``TrainConfig`` for every method. ``name`` stands in the records."""

    name: str
    choices: Mapping[str, Choice] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


PUBLISHED = Settings("published")

# The published rates and lengths are for ViT-B/16. The embedded model is thirty times smaller and was trained on icons
# only: it wants larger steps, and few of them. Chosen by H on a base-to-new inside the base classes of `icons` (seed 1,
# 17 classes to train, their 143 validation images and 702 images of the other 17 to score); docs/results.md has all.
_FEW_STEPS = {"epochs": 3, "batch_size": 32, "warmup_steps": 5, "clip_norm": 1.0}
_ALL_WEIGHTS = Choice(Recipe(learning_rate=5e-5, weight_decay=0.1, **_FEW_STEPS))
_BESIDE_MLP = Choice(Recipe(learning_rate=1e-3, weight_decay=0.01, **_FEW_STEPS))
_ORTHOGONAL = Choice(Recipe(learning_rate=3e-4, **_FEW_STEPS))
_ICONS_TINY = {
    "full": _ALL_WEIGHTS,
    "flyp": _ALL_WEIGHTS,
    "arf": _ALL_WEIGHTS,
    "lora": Choice(Recipe(learning_rate=3e-3, weight_decay=0.01, **_FEW_STEPS)),
    "dra": _BESIDE_MLP,
    "bottleneck": _BESIDE_MLP,
    "orthcr": _ORTHOGONAL,
    "orthsr": _ORTHOGONAL,
}

FOR_MODEL = {
    # a crop of 8 % of a photo shows something; of a drawing it shows a line or nothing
    "icons-tiny": Settings("chosen for icons-tiny", _ICONS_TINY, {"smallest_crop": 0.6}),
}
"""Model, as given to ``load`` -> its settings. All others are trained by the published recipes."""


def settings_for(model: str, recipes: RecipeChoice = "auto") -> Settings:
    """The settings of ``model``; "published" takes every method's published recipe whatever the model.

    Raises:
        UsageError: ``recipes`` is neither.
    """
    if recipes not in ("auto", "published"):
        raise UsageError(f"--recipes is auto or published, not {recipes!r}.")
    return PUBLISHED if recipes == "published" else FOR_MODEL.get(model, PUBLISHED)
