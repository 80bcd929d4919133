"""InfoNCE against loops and closed forms; for several processes see tests/training/test_processes.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.objectives import Batch, DrawnPrompts, Features, Image, InfoNCE, Text
from zero_shot import zero_shot_logits

TEXT = Text(DrawnPrompts())


def info_nce(model: DualEncoder, image_BD: torch.Tensor, text_BD: torch.Tensor, labels_B=None) -> torch.Tensor:
    """The term over given features; ``labels_B``: images of one class are no negatives of each other."""
    batch = Batch(torch.zeros(len(image_BD), dtype=torch.long) if labels_B is None else labels_B)
    f = Features(model, None, frozenset(("image", "text")), (), (), batch)
    f.raw.update({Image(): image_BD, TEXT: text_BD})
    return InfoNCE(TEXT, mask_same_class=labels_B is not None)(f)


def features(pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image_BD, text_BD = (F.normalize(torch.randn(pairs, 16, generator=generator), dim=-1) for _ in range(2))
    return image_BD, text_BD


def by_loops(logits: list[list[float]], labels: list[int] | None) -> float:
    """Every softmax spelled out: images among texts, then texts among images."""
    count, total = len(logits), 0.0
    for i in range(count):
        rivals = [j for j in range(count) if j == i or labels is None or labels[j] != labels[i]]
        total -= math.log(math.exp(logits[i][i]) / sum(math.exp(logits[i][j]) for j in rivals)) / 2
        total -= math.log(math.exp(logits[i][i]) / sum(math.exp(logits[j][i]) for j in rivals)) / 2
    return total / count


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 1], [0, 1, 2, 3, 4]])
def test_it_is_what_loops_say(family, labels) -> None:
    model, (image_BD, text_BD) = tiny(family), features(5)
    loss = info_nce(model, image_BD, text_BD, None if labels is None else torch.tensor(labels))
    assert float(loss) == pytest.approx(by_loops(zero_shot_logits(model, image_BD, text_BD).tolist(), labels), rel=1e-5)


def test_equal_features_give_the_logarithm_of_the_batch() -> None:
    same_BD = F.normalize(torch.ones(8, 16), dim=-1)
    assert float(info_nce(tiny("clip"), same_BD, same_BD)) == pytest.approx(math.log(8), rel=1e-6)


def test_one_class_alone_has_nothing_to_tell_apart_where_it_is_masked() -> None:
    image_BD, text_BD = features(4)
    assert float(info_nce(tiny("clip"), image_BD, text_BD, torch.zeros(4, dtype=torch.long))) == 0.0


def test_features_and_scale_get_gradients_that_are_finite_also_where_masked() -> None:
    model, (image_BD, text_BD) = tiny("clip"), features(4)
    model.train_weights()
    info_nce(model, image_BD.requires_grad_(), text_BD.requires_grad_(), torch.tensor([0, 0, 1, 2])).backward()
    for gradient in (image_BD.grad, text_BD.grad, model.network.logit_scale.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
