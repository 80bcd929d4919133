"""CoOp and CoCoOp: where they start, what is trained, and what the texts depend on."""

from __future__ import annotations

import pytest
import torch

from method_world import NAMES, attached, encoded, filled, make_batch
from steadyclip.adapters import Prompts
from steadyclip.evaluation import Scorer
from steadyclip.methods import get_method
from steadyclip.methods.coop import CoCoOp, CoOp
from steadyclip.models.testing import installed_families, tiny
from steadyclip.objectives import Image, Text
from steadyclip.testing import starts_frozen, train_a_little
from steadyclip.training.step import Step

PROMPT = ("a photo of a {}.",)


def raw_images(model, batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.run("image", batch.images_BCHW)


@pytest.mark.parametrize("family", installed_families())
def test_step_0_is_zero_shot_with_its_own_words(family) -> None:
    method, plain = CoOp(), tiny(family)
    model = attached(method, family)
    batch = make_batch()
    batch.images_BCHW = torch.randn(6, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0))
    rows = raw_images(model, batch)
    found = Scorer(model, method, NAMES, PROMPT).logits(rows)
    expected = Scorer(plain, get_method("zero-shot"), NAMES, PROMPT).logits(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert starts_frozen(method, tiny(family))


def test_other_first_words_do_not_start_there() -> None:
    assert not starts_frozen(CoOp(adapters=(Prompts(init="the art of a"),)), tiny("clip"))
    assert not starts_frozen(CoCoOp(), tiny("clip"))  # its net does not start at zero


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (CoOp(), {"adapters.prompts.text"}),
        (CoCoOp(), {"adapters.prompts.text", *(f"adapters.prompts.net.{n}" for n in
                                                ("0.weight", "0.bias", "2.weight", "2.bias"))}),
    ],
    ids=["coop", "cocoop"],
)  # fmt: skip
def test_only_the_context_has_a_gradient(method, names) -> None:
    model = attached(method)
    step = Step(method, model, NAMES, PROMPT)
    step.gradients(make_batch(), seed=0)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == names == step.trained.keys()
    assert all(p.grad.abs().sum() > 0 for p in step.trained.values())


def test_as_many_parameters_as_published() -> None:
    """Of text width W, M tokens and joint width D: M W, and with the net D W / 16 ... on the tiny model."""
    for method, net in ((CoOp(), 0), (CoCoOp(), 24 * 32 + 32 + 32 * 32 + 32)):
        model = attached(method)
        tokens = model.adapters["prompts"].length  # of "a photo of a", letter by letter in the tiny tokenizer
        assert sum(p.numel() for p in model.adapters.parameters()) == tokens * 32 + net


def test_with_a_net_of_zeros_cocoop_is_coop() -> None:
    models = []
    for method in (CoOp(), CoCoOp()):
        model = attached(method)
        for name, parameter in model.adapters.named_parameters():
            if ".net." in name:
                torch.nn.init.zeros_(parameter)
            else:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        models.append((method, model))
    batch = make_batch()
    coop, cocoop = (Scorer(model, method, NAMES, PROMPT).logits(raw_images(model, batch)) for method, model in models)
    torch.testing.assert_close(coop, cocoop, rtol=0, atol=2e-5)


def test_the_texts_of_an_image_do_not_depend_on_the_rest_of_the_batch() -> None:
    method, model = CoCoOp(), tiny("clip")
    train_a_little(method, model)
    model.eval()
    f = filled(method, model, make_batch())
    texts_BCD = f[Text()]
    assert texts_BCD.shape == (6, len(NAMES), model.embed_dim)
    assert not torch.allclose(texts_BCD[0], texts_BCD[1], atol=1e-5)
    rows = raw_images(model, make_batch())
    scorer = Scorer(model, method, NAMES, PROMPT)
    together = scorer.logits(rows)
    alone = torch.cat([scorer.logits({"feature": row[None]}) for row in rows["feature"]])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    torch.testing.assert_close(f.logits().detach(), together, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", [CoOp(), CoCoOp()], ids=["coop", "cocoop"])
def test_new_names_get_texts_of_their_own(method) -> None:
    """Learned tokens transfer: the logits of a name are the same whichever names it is told apart from."""
    model = tiny("clip")
    train_a_little(method, model)
    rows = raw_images(model, make_batch())
    new = Scorer(model, method, ("zebra", "ant", "cat"), PROMPT).logits(rows)
    old = Scorer(model, method, NAMES, PROMPT).logits(rows)
    torch.testing.assert_close(new[:, 2], old[:, 0], rtol=0, atol=2e-5)
    assert not torch.allclose(new[:, 0], new[:, 1], atol=1e-4)


def test_images_are_the_frozen_models() -> None:
    model, batch = tiny("clip"), make_batch()
    before = encoded(model, batch)[0]
    method = CoOp()
    train_a_little(method, model)
    assert torch.equal(filled(method, model, batch)[Image()], before)
    assert torch.equal(raw_images(model, batch)["feature"], raw_images(tiny("clip"), batch)["feature"])
