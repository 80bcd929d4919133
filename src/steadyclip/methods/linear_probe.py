"""Linear probe: multinomial logistic regression on frozen image features, by L-BFGS."""

from steadyclip.heads import LinearHead
from steadyclip.methods.base import Method
from steadyclip.methods.registry import register


@register
class LinearProbe(Method):
    """Minimizes ``strength * sum CE + |W|^2 / 2`` (the bias is free); the strength comes from validation.

    It cannot name new classes: it can only tell apart the classes it was trained on.
    """

    name = "linear-probe"
    summary = "logistic regression on frozen features; cannot name new classes"
    source = "Radford et al. 2021 (CLIP), section 3.2 and appendix A.3"

    head = LinearHead()
