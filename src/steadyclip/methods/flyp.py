"""FLYP: fine-tune like you pretrain (Goyal et al. 2023, arXiv 2212.00638)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.objectives import info_nce


@register
@dataclass(frozen=True)
class FLYP(Method):
    """The loss of the pretraining goes on: each image against the prompts of the images beside it."""

    name = "flyp"
    summary = "all weights, the contrastive loss of the pretraining with class prompts as texts"
    source = "Goyal et al. 2023 (FLYP, arXiv 2212.00638), loss and recipe; how templates are drawn is our reading of it"
    own_weights = True
    whole_batch = True
    recipe = Recipe(learning_rate=1e-5, weight_decay=0.1, epochs=10, batch_size=512, warmup_steps=500)

    towers: Literal["both", "image", "text"] = "both"
    """Which towers are trained; the logit scale always is."""
    draw: Literal["step", "image", "first"] = "step"
    """One of the data set's templates is drawn at random for each step or for each image, or it is always the first."""
    mask_same_class: bool = False
    """Images of one class in a batch are no negatives of each other; off is FLYP."""

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.train_weights(self.towers)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """l(x, t), x the images and t a prompt of the class of each."""
        return {"prompts": self.prompt_loss(model, batch, model.encode_image(batch.images_BCHW))}

    def prompt_loss(self, model: DualEncoder, batch: Batch, image_BD: Tensor, again: bool = False) -> Tensor:
        """l(x, t), a scalar, from the image features (B, D); ``again`` draws other templates."""
        text_BD = encode_distinct(model, self.class_prompts(batch, again))
        return info_nce(model, image_BD, text_BD, batch.labels_B if self.mask_same_class else None)

    def class_prompts(self, batch: Batch, again: bool = False) -> list[str]:
        """A prompt of the class of each of the B images, the same however many processes share the batch."""
        names = [batch.classes[label] for label in batch.labels_B.tolist()]
        # a template for each image where its key is part of the seed
        seeds = [f"{batch.seed}/{again}/{key if self.draw == 'image' else ''}" for key in batch.keys]
        choices = batch.templates[:1] if self.draw == "first" else batch.templates
        drawn = [random.Random(seed).choice(choices) for seed in seeds]
        return [template.replace("{}", name) for template, name in zip(drawn, names, strict=True)]


def encode_distinct(model: DualEncoder, texts: Sequence[str]) -> Tensor:
    """(B, D) features of B texts; a text that stands there several times goes through the tower once."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    text_MD = model.encode_text(list(place))
    return text_MD[torch.tensor([place[text] for text in texts], device=text_MD.device)]
