"""CoOp and CoCoOp: learned words in place of a prompt (Zhou et al. 2022, arXiv 2109.01134 and 2203.05557)."""

from steadyclip.adapters import Prompts
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register


@register
class CoOp(Method):
    """Learned tokens before the class name, "[v1] ... [vM] name."; cross-entropy among the class prompts.

    Nothing below the image features is trained, so they come from the cache. The defaults are those of the authors'
    base-to-new rows: four tokens that start as "a photo of a", the name last.
    """

    name = "coop"
    summary = "learned tokens before the class name, the same for every image"
    source = "Zhou et al. 2022 (CoOp, arXiv 2109.01134), equation 3; settings of the authors' base-to-new script"

    adapters = (Prompts(init="a photo of a"),)
    # ten augmented views of each image, drawn once, where the authors draw anew in each of 200 epochs
    recipe = Recipe(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, epochs=200, batch_size=32, views=10)


@register
class CoCoOp(CoOp):
    """The learned tokens are shifted by the image: v_m + pi(f), pi a small net on the frozen image feature.

    A text pass for each image and class: the authors train with single images.
    """

    name = "cocoop"
    summary = "learned tokens before the class name, shifted by each image"
    source = "Zhou et al. 2022 (CoCoOp, arXiv 2203.05557), equation 4; settings of the authors' code"

    adapters = (Prompts(init="a photo of a", meta=32),)
    recipe = Recipe(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, epochs=10, batch_size=1, views=10)
