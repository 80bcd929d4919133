"""A plain parallel bottleneck adapter: what DRA is without its ideas, and the baseline it is held against."""

from steadyclip.adapters import Bottleneck
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class BottleneckAdapter(Method):
    """The same rank for every token, beside the MLP of the upper blocks; cross-entropy among class prompts."""

    name = "bottleneck"
    summary = "a bottleneck beside the MLP, one rank for all tokens, in the upper blocks of both towers"
    source = (
        "He et al. 2022 (parallel adapter), Chen et al. 2022 (AdaptFormer); placed and trained as our reading of DRA"
    )

    adapters = (Bottleneck(),)
    recipe = Recipe(optimizer="sgd", learning_rate=1.5e-3, epochs=5, batch_size=16)  # that of MMA, as for DRA
