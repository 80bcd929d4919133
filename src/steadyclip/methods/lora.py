"""LoRA on the attention of both towers, as the strong few-shot baseline of the field."""

from steadyclip.adapters import LowRank
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class LoRA(Method):
    """Low-rank updates of q, k, v in all blocks of both towers; cross-entropy among class prompts."""

    name = "lora"
    summary = "low-rank updates of q, k, v in all blocks of both towers"
    source = "Zanella and Ben Ayed 2024 (low-rank few-shot adaptation of vision-language models); Hu et al. 2022"

    adapters = (LowRank(),)
    # the published recipe: AdamW 2e-4, batch 32, 500 steps for each shot, cosine
    recipe = Recipe(learning_rate=2e-4, weight_decay=0.01, steps_per_shot=500, batch_size=32)
