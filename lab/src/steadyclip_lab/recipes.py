"""How methods are trained on ``icons-small``."""

from __future__ import annotations

from typing import Any

from steadyclip.experiments.settings import Choice, Settings
from steadyclip.methods.recipe import Recipe

# The published rates and lengths are for ViT-B/16. The small model is fifteen times smaller and was trained on drawings
# only: it wants larger steps, and few of them. These were chosen on its predecessor, by H on a base-to-new inside the
# base classes of one data set (docs/results.md); benchmarks/choose_settings.py chooses them anew.
_FEW_STEPS = {"epochs": 3, "batch_size": 32, "warmup_steps": 5, "clip_norm": 1.0}
_ALL_WEIGHTS = Choice(Recipe(learning_rate=5e-5, weight_decay=0.1, **_FEW_STEPS))
_BESIDE_MLP = Choice(Recipe(learning_rate=1e-3, weight_decay=0.01, **_FEW_STEPS))
_ORTHOGONAL = Choice(Recipe(learning_rate=3e-4, **_FEW_STEPS))
# learned words overfit: more epochs or a larger rate lose the other half (docs/results.md)
_WORDS: dict[str, Any] = {"weight_decay": 5e-4, "epochs": 3, "warmup_steps": 5, "views": 3}
_CHOICES = {
    "full": _ALL_WEIGHTS,
    "flyp": _ALL_WEIGHTS,
    "arf": _ALL_WEIGHTS,
    "lora": Choice(Recipe(learning_rate=3e-3, weight_decay=0.01, **_FEW_STEPS)),
    "dra": _BESIDE_MLP,
    "bottleneck": _BESIDE_MLP,
    "orthcr": _ORTHOGONAL,
    "orthsr": _ORTHOGONAL,
    "coop": Choice(Recipe(learning_rate=5e-4, batch_size=32, **_WORDS), {"init": "an icon of a"}),
    "cocoop": Choice(Recipe(learning_rate=1e-3, batch_size=8, **_WORDS), {"init": "an icon of a"}),
    "tip-adapter-f": Choice(Recipe(learning_rate=1e-3, weight_decay=0.01, epochs=20, batch_size=32, views=10)),
}

# a crop of 8 % of a photo shows something; of a drawing it shows a line or nothing
ICONS_SMALL = Settings("taken over from an earlier small model", _CHOICES, {"smallest_crop": 0.6})
