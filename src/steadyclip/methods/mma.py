"""MMA: bottlenecks of both towers that share their inner layer (Yang et al. 2024)."""

from steadyclip.adapters import SharedBottleneck
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class MMA(Method):
    """A bottleneck beside each upper block, its inner layer shared by the towers; CE among the class prompts."""

    name = "mma"
    summary = "bottlenecks beside the upper blocks of both towers, which share their inner layer"
    source = "Yang et al. 2024 (MMA: Multi-Modal Adapter, CVPR), equations 4 to 6; settings of the authors' code"

    adapters = (SharedBottleneck(),)
    recipe = Recipe(optimizer="sgd", learning_rate=1.5e-3, weight_decay=5e-4, epochs=5, batch_size=16)
