from __future__ import annotations

import pytest
import torch
from steadyclip.evaluation.heads import Head, prompts, text_head
from torch.nn import functional as F

from steadyclip.core.errors import UsageError
from steadyclip.evaluation import heads
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny

NAMES, TEMPLATES = ("cat", "great {brace}", "owl"), ("a photo of a {}.", "art of the {}.", "{}")


def test_prompts_are_grouped_by_name() -> None:
    assert prompts(["a", "b"], ["x {}", "{} y"]) == ["x a", "a y", "x b", "b y"]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_text_head_equals_the_loop(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        head = text_head(model, NAMES, TEMPLATES)
        rows = []
        for name in NAMES:
            features = torch.stack([model.encode_text([t.replace("{}", name)])[0] for t in TEMPLATES])
            rows.append(F.normalize(features.mean(dim=0), dim=0))
        image_BD = F.normalize(torch.randn(5, model.embed_dim, generator=torch.Generator().manual_seed(0)), dim=-1)
        expected = model.logits(image_BD, torch.stack(rows))
    assert head.classes == NAMES
    torch.testing.assert_close(head.logits(image_BD), expected, atol=1e-5, rtol=1e-5)


def test_text_head_in_chunks_is_the_same(model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_head(model, NAMES, TEMPLATES).weight_CD
    monkeypatch.setattr(heads, "_CHUNK", 2)
    torch.testing.assert_close(text_head(model, NAMES, TEMPLATES).weight_CD, whole, atol=1e-6, rtol=0)


def test_head_without_bias() -> None:
    head = Head(torch.eye(2), None, 3.0, ("a", "b"))
    assert head.logits(torch.tensor([[1.0, 2.0]])).tolist() == [[3.0, 6.0]]


@pytest.mark.parametrize(("names", "templates"), [((), ("{}",)), (("a",), ()), (("a",), ("no place",))])
def test_bad_templates(names: tuple[str, ...], templates: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        prompts(names, templates)
