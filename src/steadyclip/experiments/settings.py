"""How methods are trained on a model that their published recipes were not made for. Free of torch, for the command
line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from steadyclip.core.errors import UsageError
from steadyclip.core.extensions import RECIPES, load_extension

if TYPE_CHECKING:
    from steadyclip.methods.recipe import Recipe

RecipeChoice = Literal["auto", "published"]


@dataclass(frozen=True)
class Choice:
    """The recipe of one method, and the knobs that go with it. Variants of the method start from both."""

    recipe: Recipe
    knobs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What an installed package brings along for its model.

    Attributes:
        name: stands in the records.
        choices: by name of the method; a method that is not among them keeps its published recipe.
        config: fields of ``TrainConfig`` for every method.
    """

    name: str
    choices: Mapping[str, Choice] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


PUBLISHED = Settings("published")


def settings_for(model: str, recipes: RecipeChoice = "auto") -> Settings:
    """The settings that an installed package has for ``model``; the published ones without it, or if asked for."""
    if recipes not in get_args(RecipeChoice):
        raise UsageError(f"recipes are auto or published, not {recipes!r}.")
    found = load_extension(RECIPES, model, Settings) if recipes == "auto" else None
    return found or PUBLISHED
