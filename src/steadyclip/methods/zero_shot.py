"""Zero-shot: the pretrained model and its template ensemble, the line that every other method is held against."""

from steadyclip.methods.base import Method
from steadyclip.methods.registry import register


@register
class ZeroShot(Method):
    """Nothing is trained. Class weights are the mean text feature over the templates (Radford et al. 2021, 3.1.4)."""

    name = "zero-shot"
    summary = "the pretrained model; classes are recognized by their prompts"
    source = "Radford et al. 2021 (CLIP), section 3.1"
