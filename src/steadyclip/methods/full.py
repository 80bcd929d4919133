"""Full fine-tuning: every weight, by cross-entropy among class prompts."""

from steadyclip.adapters import Weights
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class Full(Method):
    """The baseline that gains most on the classes it sees, and forgets most of the others."""

    name = "full"
    summary = "all weights; cross-entropy over class prompts"
    source = (
        "the fine-tuning baseline of Wortsman et al. 2022 (WiSE-FT), with a class-prompt head and both towers trained"
    )

    adapters = (Weights(),)
    # rate, decay and schedule as in WiSE-FT and FLYP; batch and length are ours for few shots
    recipe = Recipe(learning_rate=1e-5, weight_decay=0.1, epochs=20, batch_size=32, warmup_steps=50, clip_norm=1.0)
