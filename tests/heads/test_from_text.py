"""Heads whose rows start from the class texts, against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from method_world import NAMES, TEMPLATES, attached, filled, make_batch
from steadyclip.methods import get_method
from steadyclip.models import DualEncoder
from steadyclip.objectives import Features


def with_residual(alpha: float) -> tuple[DualEncoder, Features]:
    """TaskRes away from its start."""
    method = get_method("taskres", {"alpha": alpha})
    model = attached(method)
    model.head.residual_CD.data.normal_(generator=torch.Generator().manual_seed(0))
    return model, filled(method, model, make_batch())


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_residual_moves_the_raw_mean_text(alpha: float) -> None:
    model, f = with_residual(alpha)
    with torch.no_grad():
        images = model.encode_image(make_batch().images_BCHW)
        raw = [model.run("text", model.tokenize([t.format(name) for name in NAMES]))["feature"] for t in TEMPLATES]
    rows = sum(raw) / len(raw) + alpha * model.head.residual_CD.data
    scale = model.network.logit_scale.exp()
    expected = torch.stack([scale * F.cosine_similarity(image[None], rows) for image in images])
    torch.testing.assert_close(f.logits(), expected, rtol=1e-4, atol=1e-4)


def test_without_its_factor_a_residual_learns_nothing() -> None:
    for alpha in (0.0, 0.5):
        model, f = with_residual(alpha)
        F.cross_entropy(f.logits(), f.labels()).backward()
        assert bool(model.head.residual_CD.grad.any()) == (alpha > 0)
