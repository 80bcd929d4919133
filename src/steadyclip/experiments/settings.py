"""How methods are trained on a model that their published recipes were not made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steadyclip.errors import UsageError
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

# The published rates are for ViT-B/16. The embedded model is thirty times smaller and was trained on icons only, so it
# wants larger steps; lengths are set for two cores. Chosen on the 136 validation images of the base classes of seed 1,
# where zero-shot is 51.5 %: full 55.9 at 5e-5, 57.4 at 1e-4; LoRA 51.5 at 3e-4, 55.9 at 1e-3, 60.3 at 2e-3. DRA, on
# weights one pass earlier (zero-shot 53.7) and ten epochs: 63.2 at 1e-3, 58.1 at 4e-3; the bottleneck takes DRA's.
_BESIDE = Choice(Recipe(learning_rate=1e-3, weight_decay=0.01, epochs=6, warmup_steps=20, clip_norm=1.0))
_ICONS_TINY = {
    "full": Choice(Recipe(learning_rate=1e-4, weight_decay=0.1, epochs=10, warmup_steps=20, clip_norm=1.0)),
    "lora": Choice(Recipe(learning_rate=2e-3, weight_decay=0.01, epochs=10, warmup_steps=20, clip_norm=1.0)),
    "dra": _BESIDE,
    "bottleneck": _BESIDE,
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
