"""MaPLe and IVLP: learned tokens in the inputs of many blocks of both towers."""

from steadyclip.adapters import Prompts
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class MaPLe(Method):
    """Image tokens are linear maps of the text tokens, block by block; cross-entropy among the class prompts."""

    name = "maple"
    summary = "learned tokens in both towers, those of the image being maps of the text's"
    source = "Khattak et al. 2023 (MaPLe, arXiv 2210.03117); settings of the authors' base-to-new rows"

    # the tokens start as "a photo" of "a photo of a name."; nine of twelve blocks
    adapters = (Prompts("both", init="a photo", template="of a {}.", depth=None, coupling="project"),)
    recipe = Recipe(optimizer="sgd", learning_rate=3.5e-3, weight_decay=5e-4, epochs=5, batch_size=4)


@register
class IVLP(Method):
    """Tokens of both towers that are learned for themselves: PromptSRC without what holds it."""

    name = "ivlp"
    summary = "learned tokens in both towers, each for itself"
    source = "Khattak et al. 2023 (PromptSRC, arXiv 2307.06948), its baseline; settings of its rows of five epochs"

    adapters = (Prompts("both", init="a photo of a", depth=None),)
    recipe = Recipe(optimizer="sgd", learning_rate=2.5e-3, weight_decay=5e-4, epochs=5, batch_size=4)
