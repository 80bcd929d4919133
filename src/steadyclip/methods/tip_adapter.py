"""Tip-Adapter and Tip-Adapter-F: a cache of the training images votes (Zhang et al. 2022, arXiv 2111.03930)."""

from steadyclip.heads import CacheHead
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class TipAdapter(Method):
    """Zero-shot logits plus alpha exp(-beta (1 - f F^T)) Y over the cached features F. Nothing is trained."""

    name = "tip-adapter"
    summary = "zero-shot logits plus a vote of the training images; cannot name new classes"
    source = "Zhang et al. 2022 (Tip-Adapter, arXiv 2111.03930), equations 3 to 5"

    head = CacheHead()


@register
class TipAdapterF(Method):
    """Tip-Adapter whose keys are trained by cross-entropy."""

    name = "tip-adapter-f"
    summary = "Tip-Adapter with trained keys; cannot name new classes"
    source = "Zhang et al. 2022 (Tip-Adapter-F, arXiv 2111.03930), section 3.2; settings of the authors' code"

    head = CacheHead(trained=True)
    recipe = Recipe(learning_rate=1e-3, weight_decay=0.01, epochs=20, batch_size=256, views=10)
