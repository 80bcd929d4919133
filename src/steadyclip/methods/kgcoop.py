"""KgCoOp: learned words whose class texts stay near the hand-written ones (Yao et al. 2023, arXiv 2303.13283)."""

from steadyclip.methods.coop import CoOp
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import CrossEntropy, Distance, Objective, Text


@register
class KgCoOp(CoOp):
    """CE + w (1 - mean over classes of cos(t, t0)), t0 the class texts of the frozen model by the data set's prompt."""

    name = "kgcoop"
    summary = "CoOp whose class texts are held to those of the data set's prompt"
    source = "Yao et al. 2023 (KgCoOp, arXiv 2303.13283), equation 4; settings of the authors' code"

    recipe = Recipe(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, epochs=100, batch_size=128, views=10)
    w: float = 8.0
    """lambda: weight of the distance."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective:
        return CrossEntropy() + self.w * Distance(Text(), Text(state="frozen"), "cosine")
