"""The text head against the loop over names and templates."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from steadyclip.core.errors import UsageError
from steadyclip.evaluation import Scorer
from steadyclip.heads import TextHead
from steadyclip.methods import get_method, planner
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.objectives import Classes, Features, Text
from zero_shot import zero_shot_logits

NAMES, TEMPLATES = ("cat", "great {brace}", "owl"), ("a photo of a {}.", "art of the {}.", "{}")


def by_loop(model: DualEncoder, templates=TEMPLATES, unit: bool = True) -> torch.Tensor:
    """Unit class features: the mean over templates of unit features, or of raw ones."""
    rows = []
    with torch.no_grad():
        for name in NAMES:
            texts = [t.replace("{}", name) for t in templates]
            raw = [model.run("text", model.tokenize([text]))["feature"][0] for text in texts]
            rows.append(torch.stack([F.normalize(x, dim=0) if unit else x for x in raw]).mean(dim=0))
    return F.normalize(torch.stack(rows), dim=-1)


def image_features(model: DualEncoder) -> torch.Tensor:
    return torch.randn(5, model.embed_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_it_equals_the_loop(family: str) -> None:
    model = tiny(family)
    scorer = Scorer(model, get_method("zero-shot"), NAMES, TEMPLATES)
    image_BD = image_features(model)
    expected = zero_shot_logits(model, F.normalize(image_BD, dim=-1), by_loop(model)).detach()
    assert scorer.names == NAMES
    torch.testing.assert_close(scorer.logits({"feature": image_BD}), expected, atol=1e-5, rtol=1e-5)


def test_texts_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = tiny("clip"), []
    for size in (256, 2):
        monkeypatch.setattr(planner, "SCORED_AT_ONCE", size)
        scorer = Scorer(model, get_method("zero-shot"), NAMES, TEMPLATES)
        found.append(scorer.logits({"feature": image_features(model)}))
        assert scorer.planner.calls["text frozen calls"] == (1 if size == 256 else 5)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(("mean", "unit"), [("unit", True), ("raw", False)])
def test_a_mean_over_templates_is_of_unit_vectors_or_of_raw_ones(mean, unit) -> None:
    model = tiny("clip")
    planned, read = get_method("zero-shot").planner(model), Text(Classes(mean, templates=TEMPLATES[:2]), "frozen")
    f = planned.features(NAMES, ("not this {}",), None)
    planned.fill(f, [read])
    torch.testing.assert_close(f[read], by_loop(model, TEMPLATES[:2], unit), atol=1e-6, rtol=0)
    assert not torch.allclose(f[read], by_loop(model, TEMPLATES[:2], not unit), atol=1e-5)


def test_it_trains_with_the_first_template_and_scores_with_all() -> None:
    head = TextHead().build(tiny("clip"), NAMES)
    f = Features(tiny("clip"), head, frozenset(), NAMES, TEMPLATES)
    texts = [
        view.texts(f, None) for view in (read.view for reads in (head.reads(), head.reads(True)) for read in reads)
    ]
    assert texts[0][0] == ["a photo of a cat."]
    assert texts[1][0] == ["a photo of a cat.", "art of the cat.", "cat"]
    assert texts[1][1] == ["a photo of a great {brace}.", "art of the great {brace}.", "great {brace}"]


@pytest.mark.parametrize(("names", "templates"), [((), ("{}",)), (("a",), ()), (("a",), ("no place",))])
def test_bad_templates(names: tuple[str, ...], templates: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Scorer(tiny("clip"), get_method("zero-shot"), names, templates)
