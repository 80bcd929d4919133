"""FLYP: which prompts, which loss, which weights."""

import dataclasses

import pytest
import torch

from steadyclip.methods import Batch, get_method
from steadyclip.methods.flyp import FLYP, encode_distinct
from steadyclip.models.testing import tiny
from steadyclip.objectives import info_nce

TEMPLATES = tuple(f"{word} of a {{}}." for word in ("a photo", "a drawing", "an icon", "art"))


def make_batch(step: int = 0, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch(
        torch.randn(count, 3, 32, 32, generator=generator),
        torch.arange(count) % 3,
        prompts={},
        step=step,
        classes=("cat", "dog", "owl"),
        templates=TEMPLATES,
        keys=tuple(f"{i}.png" for i in range(count)),
        seed=1000 + step,
    )


def test_all_prompts_of_a_step_have_one_template_and_steps_differ() -> None:
    drawn = []
    for step in range(12):
        texts = FLYP().class_prompts(make_batch(step))
        (template,) = {text.replace(name, "{}") for text, name in zip(texts, ["cat", "dog", "owl"] * 2, strict=True)}
        drawn.append(template)
    assert set(drawn) == set(TEMPLATES)
    assert FLYP(draw="first").class_prompts(make_batch(3)) == FLYP(draw="first").class_prompts(make_batch(4))


@pytest.mark.parametrize("draw", ["step", "image"])
def test_an_image_has_the_same_prompt_whichever_process_it_comes_to(draw) -> None:
    method, whole = FLYP(draw=draw), make_batch(count=40)
    texts = method.class_prompts(whole)
    for rank in range(2):
        part = dataclasses.replace(whole, labels_B=whole.labels_B[rank::2], keys=whole.keys[rank::2])
        assert method.class_prompts(part) == texts[rank::2]
    assert len({text.split(" of ")[0] for text in texts}) == (1 if draw == "step" else 4)


def test_the_loss_is_infonce_of_images_and_prompts() -> None:
    model, batch = tiny("clip"), make_batch()
    method = FLYP(mask_same_class=True)
    method.adapt(model, batch.classes)
    image_BD, texts = model.encode_image(batch.images_BCHW), method.class_prompts(batch)
    text_BD = torch.cat([model.encode_text([text]) for text in texts])
    expected = info_nce(model, image_BD, text_BD, batch.labels_B)
    assert torch.allclose(method.loss(model, batch)["prompts"], expected, atol=1e-5)
    assert not torch.allclose(FLYP().loss(model, batch)["prompts"], expected, atol=1e-5)


def test_a_text_that_occurs_twice_goes_through_the_tower_once() -> None:
    model, seen = tiny("clip"), []
    encode = model.encode_text
    model.encode_text = lambda texts: seen.append(texts) or encode(texts)
    features = encode_distinct(model, ["b", "a", "b", "b"])
    assert seen == [["b", "a"]]
    assert torch.equal(features[0], features[2])
    assert torch.equal(features, encode(["b", "a"])[torch.tensor([0, 1, 0, 0])])


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
@pytest.mark.parametrize("name", ["full", "flyp"])
@pytest.mark.parametrize("towers", ["image", "text"])
def test_only_the_chosen_tower_is_trained(family, name, towers) -> None:
    if family == "open_clip":
        pytest.importorskip("open_clip")
    model = tiny(family)
    get_method(name, {"towers": towers}).adapt(model, ["cat", "dog"])
    image_BD, text_MD = model.encode_image(torch.randn(2, 3, *model.preprocess.size)), model.encode_text(["a cat"])
    assert [image_BD.requires_grad, text_MD.requires_grad] == [towers == "image", towers == "text"]
    assert model.logit_scale.requires_grad
    (image_BD if towers == "image" else text_MD).sum().backward()
    free = {name for name, weight in model.network.named_parameters() if weight.requires_grad}
    reached = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert reached == free - {"logit_scale", "logit_bias"}
    assert model.frozen_weights().keys() == model.trained_state().keys()
