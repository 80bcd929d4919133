"""The model's own weights as what is trained."""

from __future__ import annotations

from typing import ClassVar

from steadyclip.adapters.base import AdapterSpec
from steadyclip.models import DualEncoder


class Weights(AdapterSpec):
    """Every weight of the chosen towers, the logit scale and the bias. Nothing is added to the model."""

    own_weights: ClassVar[bool] = True

    def attach(self, model: DualEncoder) -> None:
        model.train_weights(self.towers)
