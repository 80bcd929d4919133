"""Learned tokens against explicit concatenation, and the facts that prompt learning promises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.adapters import (
    AdapterSpec,
    LowRank,
    Prompts,
    PromptTokens,
    SharedBottleneck,
    SpaceTokens,
    TokenRank,
    watch_tokens,
)
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.heads import FeatureAdapterHead, HeadSpec
from steadyclip.models import DualEncoder
from steadyclip.models.testing import installed_families, tiny

from . import prompt_reference as reference

FAMILIES = installed_families()
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
NAMES = ["cat.", "sea lion.", "a"]
KINDS = {
    "shallow": Prompts("both", length=3),
    "words": Prompts("text", init="a photo of a"),
    "deep": Prompts("both", length=2, depth=2),
    "coupled": Prompts("both", length=2, depth=2, coupling="project"),
    "conditional": Prompts("text", length=2, meta=5),
    "by class": Prompts("text", length=2, class_net=5),
}


def adapted(family: str, spec: Prompts) -> tuple[DualEncoder, PromptTokens]:
    """A tiny model with learned tokens away from their start, as after a training."""
    model = tiny(family)
    spec.attach(model)
    prompts = model.adapters["prompts" if "text" in spec.touches else "prompts_image"]
    assert isinstance(prompts, PromptTokens)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in prompts.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model, prompts


def given_for(model: DualEncoder, prompts: PromptTokens, rows: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, model.embed_dim, generator=generator) if prompts.conditional or prompts.by_class else None


# ---- against explicit concatenation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_texts_equal_explicit_concatenation(family: str, kind: str) -> None:
    model, prompts = adapted(family, KINDS[kind])
    tokens = model.tokenize(NAMES, slots=True)
    for mask in (False, True):
        if mask:  # what some tokenizers of SigLIP give
            if not family.startswith("siglip"):
                continue
            seen_MN = (tokens["input_ids"] != 0).long()
            seen_MN[:, -1] = 1
            tokens["attention_mask"] = seen_MN
        given = prompts.given = given_for(model, prompts, len(NAMES))
        got_MD = model.run("text", tokens)["feature"]
        for m in range(len(NAMES)):
            row = {name: x[m : m + 1] for name, x in tokens.items()}
            expected_D = reference.text_feature(model, prompts, row, None if given is None else given[m])
            torch.testing.assert_close(got_MD[m], expected_D, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["shallow", "deep", "coupled"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_and_patches_equal_explicit_concatenation(family: str, kind: str) -> None:
    model, prompts = adapted(family, KINDS[kind])
    output = model.run("image", PIXELS, patches=True)
    assert output["patches"].shape == (2, 4, 4, model.embed_dim)
    for b, image_CHW in enumerate(PIXELS):
        own = reference.image_tokens(model, prompts, image_CHW)
        image_D, patch_YXD = reference.image_features(model, own)
        torch.testing.assert_close(output["feature"][b], image_D, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output["patches"][b], patch_YXD, atol=1e-5, rtol=1e-5)
    image_BD, patch_BYXD = model.encode_patches(PIXELS)
    assert torch.equal(image_BD, model.encode_image(PIXELS))
    assert torch.equal(patch_BYXD, F.normalize(output["patches"], dim=-1))


# ---- where they start, and off


@pytest.mark.parametrize(("init", "template"), [("a photo of a", "{}."), ("a photo", "of a {}.")])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_with_the_words_of_a_template_the_start_is_zero_shot(family: str, init: str, template: str) -> None:
    names = ["cat", "Dog", "sea lion"]
    model = tiny(family)
    expected = model.encode_text([f"a photo of a {name}." for name in names])
    Prompts(init=init, template=template).attach(model)
    assert model.prompted == template
    got = model.encode_text([template.format(name) for name in names])
    assert (got - expected).abs().max() <= 1e-6
    if family == "clip":
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_off_is_the_frozen_model_bit_for_bit(family: str, kind: str) -> None:
    plain, (model, _) = tiny(family), adapted(family, KINDS[kind])
    with model.frozen():
        assert model.prompted is None
        assert torch.equal(model.encode_text(NAMES), plain.encode_text(NAMES))
        for got, expected in zip(model.encode_patches(PIXELS), plain.encode_patches(PIXELS), strict=True):
            assert torch.equal(got, expected)
    tokens = model.tokenize(NAMES)
    assert all(torch.equal(tokens[name], ids) for name, ids in plain.tokenize(NAMES).items())
    assert tokens.keys() == plain.tokenize(NAMES).keys()
    model.detach_all()
    assert torch.equal(model.encode_text(NAMES), plain.encode_text(NAMES))


@pytest.mark.parametrize("spec", [KINDS["words"], KINDS["deep"]], ids=["words", "deep"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_other_texts_of_a_batch_change_nothing(family: str, spec: Prompts) -> None:
    model, _ = adapted(family, spec)
    together = model.encode_text(NAMES)
    for name, feature_D in zip(NAMES, together, strict=True):
        torch.testing.assert_close(model.encode_text([name])[0], feature_D, atol=1e-6, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


# ---- with other adapters


@pytest.mark.parametrize("score", ["summary", "received"])
@pytest.mark.parametrize("kind", ["shallow", "words"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_and_ranks_never_count_learned_tokens(family: str, kind: str, score: Any) -> None:
    model, prompts = adapted(family, KINDS[kind])
    TokenRank(ranks=(6, 4, 1), score=score, first_block=2).attach(model)
    tokens, L = model.tokenize(NAMES, slots=True), prompts.length
    with watch_tokens(model) as traces:
        model.run("image", PIXELS)
        model.run("text", tokens)
    image, text = traces
    usual = 16 if family.startswith("siglip") else 17
    if "image" in prompts.towers:
        assert image.ranks_BN.shape[1] == usual + L
        assert (image.ranks_BN[:, usual:] == 0).all()
    assert ((image.ranks_BN > 0).sum(1) == usual).all()
    start = model.text_tower.start
    assert text.ranks_BN.shape[1] == tokens["input_ids"].shape[1]
    assert (text.ranks_BN[:, start : start + L] == 0).all()
    if not family.startswith("siglip"):  # the first group begins with the token that the feature is read from
        ends_M = tokens["input_ids"].argmax(dim=1)
        assert (text.ranks_BN.gather(1, ends_M[:, None]) == 6).all()
        assert torch.equal((text.ranks_BN > 0).sum(1), ends_M + 1 - L)
    for trace in traces:
        assert (trace.scores_BN[trace.ranks_BN == 0] == 0).all()
        torch.testing.assert_close(trace.scores_BN.sum(1), torch.ones(len(trace.scores_BN)))


# ---- what is learned


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_learned_tokens_get_a_gradient(kind: str) -> None:
    model, prompts = adapted("clip", KINDS[kind])
    prompts.given = given_for(model, prompts, len(NAMES))
    (model.encode_text(NAMES).square().sum(0)[0] + model.encode_image(PIXELS).sum()).backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"adapters.prompts.{name}" for name, _ in prompts.named_parameters()
    }
    for name, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.abs().max() > 0)) == name.startswith("adapters."), name


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_deep_tokens_replace_what_arrives(family: str) -> None:
    for depth, kept in ((1, False), (2, True)):
        model, prompts = adapted(family, Prompts("both", length=2, depth=depth))
        before = model.encode_image(PIXELS), model.encode_text(NAMES)
        for tower in (model.image_tower, model.text_tower):
            start = tower.start if tower.name == "text" else -prompts.length
            place = slice(start, start + prompts.length or None)

            def disturb(_: nn.Module, __: Any, x_BNW: Tensor, place: slice = place) -> Tensor:
                x_BNW = x_BNW.clone()
                x_BNW[:, place] += torch.linspace(-1, 1, 32)
                return x_BNW

            tower.blocks[0].module.register_forward_hook(disturb)
        after = model.encode_image(PIXELS), model.encode_text(NAMES)
        assert all(torch.equal(a, b) == kept for a, b in zip(before, after, strict=True))


def test_coupled_image_tokens_teach_the_text_tokens() -> None:
    model, prompts = adapted("clip", KINDS["coupled"])
    assert not hasattr(prompts, "image")
    model.encode_image(PIXELS).sum().backward()
    assert prompts.text.grad is not None
    assert prompts.text.grad.abs().amin(dim=(1, 2)).min() > 0  # of both blocks


@torch.no_grad()
def test_a_net_of_zeros_changes_nothing_and_each_text_has_its_own_row() -> None:
    model, prompts = adapted("clip", Prompts(init="a photo of a", meta=5))
    plain, other = adapted("clip", Prompts(init="a photo of a"))
    other.text.copy_(prompts.text)
    given_MD = given_for(model, prompts, 3)
    assert given_MD is not None
    prompts.given = given_MD
    before = model.encode_text(NAMES)
    with pytest.raises(ModelError, match=r"depend on an image: set their `given`"):
        model.encode_text(NAMES)  # each pass takes what was given
    prompts.given = given_MD * torch.tensor([[1.0], [-1.0], [1.0]])
    changed = (model.encode_text(NAMES) - before).abs().amax(1)
    assert (changed > 1e-4).tolist() == [False, True, False]
    prompts.given = given_MD[:2]
    with pytest.raises(ModelError, match="given for 2 texts, but 3 are read"):
        model.encode_text(NAMES)
    for parameter in prompts.net[2].parameters():
        parameter.zero_()
    prompts.given = given_MD
    assert torch.equal(model.encode_text(NAMES), plain.encode_text(NAMES))


@torch.no_grad()
def test_copies_files_and_other_values() -> None:
    model, _ = adapted("clip", KINDS["deep"])
    twin, fresh = copy.deepcopy(model), tiny("clip")
    before = model.encode_text(NAMES), model.encode_image(PIXELS)
    KINDS["deep"].attach(fresh)
    state = model.trained_state()
    assert {name: tuple(x.shape) for name, x in state.items()} == {
        "adapters.prompts.text": (2, 2, 32),
        "adapters.prompts.image": (2, 2, 32),
    }
    values = {name: -value for name, value in state.items()}
    swapped = F.normalize(twin.run("text", twin.tokenize(NAMES, slots=True), values=values)["feature"], dim=-1)
    assert torch.equal(twin.encode_text(NAMES), before[0])
    twin.load_trained_state(values)
    assert torch.equal(twin.encode_text(NAMES), swapped)
    assert not torch.equal(swapped, before[0])
    fresh.load_trained_state(state)
    for other in (model, fresh):
        assert torch.equal(other.encode_text(NAMES), before[0])
        assert torch.equal(other.encode_image(PIXELS), before[1])
    with pytest.raises(ModelError, match=r"parameters that the model does not have: adapters\.text"):
        model.run("image", PIXELS, values={"adapters.text": torch.zeros(1)})


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (Prompts(length=16), 8_192),  # CoOp
        (Prompts(length=4), 2_048),
        (Prompts(length=4, meta=32), 35_360),  # CoCoOp
        (Prompts("both", length=2, depth=9, coupling="project"), 3_555_072),  # MaPLe
        (Prompts("both", length=2, depth=3, coupling="project"), 1_185_024),
        (Prompts("both", length=4, depth=9), 46_080),  # PromptSRC
        (Prompts("both", length=4, depth=3), 15_360),
        (Prompts(class_net=128), 331_904),  # TCP
        (LowRank(), 184_320),  # CLIP-LoRA
        (SharedBottleneck(), 674_560),  # MMA
        (SpaceTokens(), 4_992_256),  # MMRL
        (FeatureAdapterHead(), 131_072),  # CLIP-Adapter
    ],
    ids=str,
)
def test_parameter_counts_of_the_papers(spec: AdapterSpec | HeadSpec, count: int) -> None:
    """For CLIP ViT-B/16, on the meta device: neither weights nor memory are needed."""
    from transformers import CLIPConfig, CLIPModel

    from steadyclip.models.huggingface import HuggingFace

    with torch.device("meta"):
        network = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512))
    model = DualEncoder("vit-b-16", network, HuggingFace("clip", None, 77, {}), tiny("clip").preprocess)
    part = spec.build(model, NAMES) if isinstance(spec, HeadSpec) else model.adapters
    if isinstance(spec, AdapterSpec):
        spec.attach(model)
    assert sum(p.numel() for p in part.parameters()) == count


# ---- texts and mistakes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", [None, "a b"])
def test_the_longest_text_that_fits_and_one_token_more(family: str, init: str | None) -> None:
    model = tiny(family)
    Prompts(length=3, init=init).attach(model)
    L, start = model.adapters["prompts"].length, model.text_tower.start
    space = 1 if init and family.startswith("siglip") else 0  # the tiny tokenizers of SigLIP spell it
    letter = "a " if family == "open_clip" else "a"  # one token each
    room = 32 - start - L - 1 - space
    fitting = model.tokenize([letter * room, "a"], slots=True)
    assert fitting["input_ids"].shape[1] == 32
    assert fitting["slots"].tolist() == [L, L]
    end = tiny(family).tokenize([""])["input_ids"][0, start]
    assert int(fitting["input_ids"][0, -1]) == end  # a text that fits keeps its end
    assert torch.isfinite(model.encode_text(fitting)).all()
    with pytest.raises(UsageError, match=rf"and {L} learned tokens need more than the 32 tokens .* shorten the name"):
        model.tokenize(["a", letter * (room + 1)], slots=True)


def test_tokens_without_room_are_refused() -> None:
    model, _ = adapted("clip", KINDS["words"])
    with pytest.raises(ModelError, match=r"leave no room for the learned ones: tokenize\(texts, slots=True\)"):
        model.encode_text(model.tokenize(NAMES))
    with pytest.raises(ModelError, match="no adapter of the text tower that is on gives delta"):
        model.run("text", model.tokenize(NAMES, slots=True), wanted=("delta",))
    with pytest.raises(ModelError, match="must be called through its model"):
        model.network.text_model(**tiny("clip").tokenize(["a"]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"length": 0}, "length=0 of 'prompts' must be from 1 to 1024"),
        ({"depth": 0}, "depth=0 of 'prompts' must be at least 1"),
        ({"meta": 0}, "meta=0 of 'prompts' must be from 1 to 65536"),
        ({"template": "name"}, "template='name' of 'prompts' must be text with {} in"),
        ({"coupling": "project"}, "coupling='project' of 'prompts' must be none where towers is not both"),
        ({"towers": "image", "meta": 2}, "meta=2 of 'prompts' must be none where towers is image"),
        ({"towers": "image", "init": "a"}, "init='a' of 'prompts' must be none where"),
        ({"depth": 3}, "depth=3, but the text tower of tiny-clip has 2 blocks: lower it"),
        ({"init": " "}, "init=' ' has no word tokens for tiny-clip"),
        ({"class_net": 0}, "class_net=0 of 'prompts' must be at least 1"),
        ({"class_net": 4, "meta": 4}, "class_net=4 of 'prompts' must be none where meta is set"),
        ({"class_block": 2}, "class_block=2 of 'prompts' must be none without class_net"),
        ({"class_net": 4, "class_block": 1}, "class_block=1, but it must be above depth=1"),
        ({"class_net": 4, "depth": None}, "class_block=2, but it must be above depth=2"),
        (
            {"class_net": 4, "class_block": 3},
            "class_block=3, but .* the text tower of tiny-clip has 2",
        ),
        ({"length": 30}, "30 learned tokens leave no room for a name among the 32 tokens"),
        ({"init": "words " * 9}, "learned tokens leave no room for a name"),
    ],
    ids=str,
)
def test_mistakes_are_named_before_any_training(knobs: dict[str, Any], message: str) -> None:
    model = tiny("clip")
    with pytest.raises(UsageError, match=message):
        Prompts(**knobs).attach(model)
    assert not model.adapters


def test_one_set_for_each_tower() -> None:
    model = tiny("clip")
    Prompts("text").attach(model)
    Prompts("image", length=2).attach(model)
    for spec in (Prompts("text"), Prompts("both"), Prompts("image")):
        with pytest.raises(ModelError, match=r"two pieces give the (text|image) tower learned tokens: leave one out"):
            spec.attach(model)
