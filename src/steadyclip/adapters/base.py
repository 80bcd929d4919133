"""What every adapter specification is: knobs, and how they become parameters on a model. ``Weights`` adds none."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from steadyclip.core.errors import ModelError, UsageError
from steadyclip.core.spec import Spec
from steadyclip.models import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steadyclip.models import Block, DualEncoder, Tower

Towers = Literal["both", "image", "text"]
Layer = Literal["q", "k", "v", "out", "fc1", "fc2"]


def require_width(knob: str, size: int, width: int, times: int = 1) -> None:
    """See that a ``knob`` which sizes parameters fits the model, before memory is taken for them.

    Raises:
        UsageError: ``size`` is more than ``times`` the ``width`` of what is adapted.
    """
    if size > times * width:
        most = f"{times} times the width" if times > 1 else "the width"
        raise UsageError(f"knob {knob}={size} must be at most {times * width}, {most} of what it adapts in this model.")


def require_no_tokens(model: DualEncoder, towers: Iterable[Tower]) -> None:
    """See that nothing on the model gives one of ``towers`` learned tokens: two pieces would overwrite each other's.

    Raises:
        ModelError: something does.
    """
    for tower in towers:
        for adapter in (adapter for adapter in model.adapters.values() if isinstance(adapter, Adapter)):
            if adapter.added(tower.name) or (tower.name == "text" and adapter.template is not None):
                raise ModelError(f"two pieces give the {tower.name} tower learned tokens: leave one out.")


class AdapterSpec(Spec):
    """The knobs of one kind of adapter. A value: it holds no parameters, ``attach`` makes them.

    Attributes:
        mergeable: what was learned can be folded into plain weights.
        own_weights: the model's own weights are trained, so that they can be averaged with the pretrained ones.
    """

    mergeable: ClassVar[bool] = True
    own_weights: ClassVar[bool] = False

    towers: Towers = "both"
    """Which towers are adapted."""

    def attach(self, model: DualEncoder) -> None:
        """Add the parameters to ``model``. What was frozen stays frozen.

        Raises:
            UsageError: the knobs do not fit this model.
            ModelError: another piece already wants the same place.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement attach()")

    @property
    def touches(self) -> frozenset[str]:
        """Towers ("image", "text") whose features are no longer the frozen ones."""
        return frozenset(("image", "text") if self.towers == "both" else (self.towers,))

    def chosen(self, model: DualEncoder) -> list[Tower]:
        """The towers of ``model`` that are adapted."""
        return [tower for tower in (model.image_tower, model.text_tower) if tower.name in self.touches]

    def blocks_from(self, model: DualEncoder, tower: Tower, first: int | None) -> Sequence[Block]:
        """The blocks of a tower from number ``first`` on, counted from 1; None takes the upper two thirds (5 to 12 of
        12).

        Raises:
            UsageError: the tower has not as many.
        """
        depth = len(tower.blocks)
        first = depth // 3 + 1 if first is None else first
        if first > depth:
            raise UsageError(f"first_block={first}, but the {tower.name} tower of {model.name} has {depth} blocks.")
        return tower.blocks[first - 1 :]


class Weights(AdapterSpec):
    """The weights of the chosen towers, the logit scale and the bias. Nothing is added to the model."""

    own_weights: ClassVar[bool] = True

    blocks: int | None = None
    """Only so many blocks at the end of each chosen tower, of all that a tower has; none: every weight."""

    def __post_init__(self) -> None:
        self.require("blocks", self.blocks is None or self.blocks >= 1, "at least 1, or none")

    def attach(self, model: DualEncoder) -> None:
        if any(weight.requires_grad for weight in model.network.parameters()):
            raise ModelError("two pieces want to train the model's own weights: leave one Weights out.")
        model.train_weights(self.towers, self.with_scale)
        if self.blocks is None:
            return
        last: set[int] = set()
        for tower in self.chosen(model):
            if self.blocks > (most := len(tower.blocks)):
                raise UsageError(f"blocks={self.blocks}, but the {tower.name} tower of {model.name} has {most}.")
            last |= {id(weight) for block in tower.blocks[-self.blocks :] for weight in block.module.parameters()}
        for name, weight in model.network.named_parameters():
            weight.requires_grad_(id(weight) in last or (self.with_scale and name in ("logit_scale", "logit_bias")))

    @property
    def with_scale(self) -> bool:
        """The logit scale and the bias are trained, too."""
        return True


class TowerWeights(Weights):
    """The weights of the chosen towers alone. A piece of its own, so that runs of ``Weights`` keep their knobs."""

    scale: bool = False
    """The logit scale and the bias are trained, too."""

    @property
    def with_scale(self) -> bool:
        return self.scale
