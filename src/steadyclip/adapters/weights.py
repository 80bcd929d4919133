"""The model's own weights as what is trained."""

from __future__ import annotations

from typing import ClassVar

from steadyclip.adapters.base import AdapterSpec
from steadyclip.core.errors import ModelError
from steadyclip.models import DualEncoder


class Weights(AdapterSpec):
    """Every weight of the chosen towers, the logit scale and the bias. Nothing is added to the model."""

    own_weights: ClassVar[bool] = True

    def attach(self, model: DualEncoder) -> None:
        if any(weight.requires_grad for weight in model.network.parameters()):
            raise ModelError("two pieces want to train the model's own weights: leave one Weights out.")
        model.train_weights(self.towers)
