"""How methods are trained on a model that their published recipes were not made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steadyclip.core.errors import UsageError
from steadyclip.core.extensions import RECIPES, load_extension
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


def settings_for(model: str, recipes: RecipeChoice = "auto") -> Settings:
    """The settings of ``model``; "published" takes every method's published recipe whatever the model.

    A distribution that brings a model along brings its settings too; all other models are trained by the published
    recipes.

    Raises:
        UsageError: ``recipes`` is neither.
    """
    if recipes not in ("auto", "published"):
        raise UsageError(f"--recipes is auto or published, not {recipes!r}.")
    return PUBLISHED if recipes == "published" else load_extension(RECIPES, model, Settings) or PUBLISHED
