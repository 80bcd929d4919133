"""FLYP: which prompts, which loss, which weights."""

import dataclasses

import pytest
import torch

from method_world import attached, make_batch, terms
from steadyclip.methods import get_method
from steadyclip.methods.flyp import FLYP
from steadyclip.models.testing import tiny
from steadyclip.objectives import Batch, DrawnPrompts, Features, Image, InfoNCE, Text
from steadyclip.training.step import Step

CLASSES = ("cat", "dog", "owl")
TEMPLATES = tuple(f"{word} of a {{}}." for word in ("a photo", "a drawing", "an icon", "art"))


def prompts(batch: Batch, seed: int = 1000, **knobs) -> list[str]:
    """The prompt of each image."""
    f = Features(tiny("clip"), None, frozenset(), CLASSES, TEMPLATES, batch, seed=seed)
    return [text for (text,) in DrawnPrompts(**knobs).texts(f, None)]


def test_all_prompts_of_a_step_have_one_template_and_steps_differ() -> None:
    drawn, batch = [], make_batch(classes=3)
    for seed in range(12):
        texts = prompts(batch, seed)
        (template,) = {text.replace(name, "{}") for text, name in zip(texts, ["cat", "dog", "owl"] * 2, strict=True)}
        drawn.append(template)
    assert set(drawn) == set(TEMPLATES)
    assert prompts(batch, 3, draw="first") == prompts(batch, 4, draw="first")
    assert prompts(batch, 3, draw="first")[0] == "a photo of a cat."


@pytest.mark.parametrize("draw", ["step", "image"])
def test_an_image_has_the_same_prompt_whichever_process_it_comes_to(draw) -> None:
    whole = make_batch(count=40, classes=3)
    texts = prompts(whole, draw=draw)
    for rank in range(2):
        part = dataclasses.replace(whole, labels_B=whole.labels_B[rank::2], keys=whole.keys[rank::2])
        assert prompts(part, draw=draw) == texts[rank::2]
    assert len({text.split(" of ")[0] for text in texts}) == (1 if draw == "step" else 4)


def test_the_loss_is_infonce_of_images_and_prompts() -> None:
    batch, method = make_batch(classes=3), FLYP(mask_same_class=True)
    model = attached(method, names=CLASSES)
    options = {"names": CLASSES, "templates": TEMPLATES, "seed": 1000}
    with torch.no_grad():
        given = Features(model, None, frozenset(("image", "text")), CLASSES, TEMPLATES, batch)
        given.raw[Image()] = model.encode_image(batch.images_BCHW)
        given.raw[Text()] = torch.cat([model.encode_text([text]) for text in prompts(batch)])
        expected = InfoNCE(Text(), mask_same_class=True)(given)
    assert torch.allclose(terms(method, model, batch, **options)["prompts"], expected, atol=1e-5)
    assert not torch.allclose(terms(FLYP(), model, batch, **options)["prompts"], expected, atol=1e-5)


def test_a_text_that_occurs_twice_goes_through_the_tower_once() -> None:
    method = FLYP()
    step = Step(method, attached(method, names=CLASSES), CLASSES, TEMPLATES)
    batch = make_batch(classes=3)
    f = step.planner.features(CLASSES, TEMPLATES, batch, seed=1000)
    step.planner.fill(f, step.reads)
    assert step.planner.calls == {"image tuned calls": 1, "image tuned rows": 6, "text tuned calls": 1,
                                  "text tuned rows": 3}  # fmt: skip
    features = f.get(Text(DrawnPrompts()))
    assert torch.equal(features[:3], features[3:])
    with torch.no_grad():
        torch.testing.assert_close(f[Text(DrawnPrompts())], step.model.encode_text(prompts(batch)))


@pytest.mark.parametrize("family", ["clip", "siglip", "open_clip"])
@pytest.mark.parametrize("name", ["full", "flyp"])
@pytest.mark.parametrize("towers", ["image", "text"])
def test_only_the_chosen_tower_is_trained(family, name, towers) -> None:
    if family == "open_clip":
        pytest.importorskip("open_clip")
    model = attached(get_method(name, {"towers": towers}), family)
    image_BD, text_MD = model.encode_image(torch.randn(2, 3, *model.preprocess.size)), model.encode_text(["a cat"])
    assert [image_BD.requires_grad, text_MD.requires_grad] == [towers == "image", towers == "text"]
    assert model.logit_scale.requires_grad
    (image_BD if towers == "image" else text_MD).sum().backward()
    free = {name for name, weight in model.network.named_parameters() if weight.requires_grad}
    reached = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert reached == free - {"logit_scale", "logit_bias"}
    assert model.frozen_weights().keys() == model.trained_state().keys()
