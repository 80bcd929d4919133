"""TCP: learned tokens, some of them made from the class itself (Yao et al. 2024, arXiv 2311.18231)."""

from steadyclip.adapters import Prompts
from steadyclip.methods.kgcoop import KgCoOp
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class TCP(KgCoOp):
    """As KgCoOp, and two thirds up the text tower the tokens are replaced by a net's, from the frozen class text."""

    name = "tcp"
    summary = "KgCoOp with tokens that are made from each class's own text"
    source = "Yao et al. 2024 (TCP, arXiv 2311.18231); formulas and settings of the authors' code"

    adapters = (Prompts(class_net=128),)
    recipe = Recipe(learning_rate=2e-3, weight_decay=5e-4, epochs=50, batch_size=32, views=10)
