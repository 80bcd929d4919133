"""The methods that people compare with: where they start, what they are in the limit, and what they cost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from method_world import NAMES, attached, filled, make_batch, terms
from steadyclip.adapters import Prompts, Weights
from steadyclip.core.errors import UsageError
from steadyclip.data.prompts import imagenet_80
from steadyclip.experiments.rows import parse_row
from steadyclip.heads import FeatureTask, NoHead
from steadyclip.methods import Method, compose, get_method
from steadyclip.methods.prograd import Projected
from steadyclip.objectives import (
    ClassContrast,
    CrossEntropy,
    DrawnPrompts,
    GramAlignment,
    Image,
    InfoNCE,
    RandomTexts,
    Text,
)
from steadyclip.testing import starts_frozen
from steadyclip.training.step import Step

PROMPT = ("a photo of a {}.",)


def gradients(method: Method) -> dict[str, torch.Tensor]:
    step = Step(method, attached(method, std=0.1), NAMES, PROMPT)
    step.gradients(make_batch(), seed=0)
    return {name: p.grad for name, p in step.trained.items() if p.grad is not None}


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ({"w": 0}, ("kgcoop", "coop")),
        ({"share": 0}, ("prograd", "coop")),
        ({"text": 0, "image": 0, "kl": 0}, ("promptsrc", "ivlp")),
        ({"w": 0}, ("l2-sp", "full")),
        ({"w": 0}, ("car-ft", "full")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_without_its_own_part_it_is_the_method_below(row: dict, same: tuple[str, str]) -> None:
    ours, theirs = gradients(get_method(same[0], row)), gradients(get_method(same[1]))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "term"),
    [("kgcoop", "cosine_text"), ("car-ft", "context_consistency"), ("l2-sp", "l2sp"), ("lipsum-ft", "texts_kept")],
)
def test_what_holds_it_is_0_at_the_start_and_not_later(name: str, term: str) -> None:
    method = get_method(name)
    batch = make_batch()
    (label,) = {key for key in terms(method, attached(method), batch, templates=PROMPT) if "cross" not in key}
    assert terms(method, attached(method), batch, templates=PROMPT)[label].abs() < 1e-5, term
    model = attached(method)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert terms(method, model, batch, templates=PROMPT)[label] > 1e-4


def test_prograd_takes_away_what_goes_against_the_second_gradient() -> None:
    g, h = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    h = -h if g @ h > 0 else h
    assert abs(float(Projected()([g, h]) @ h)) < 1e-5
    torch.testing.assert_close(Projected(0.8)([g, h]) @ h, 0.2 * (g @ h))
    torch.testing.assert_close(Projected()([g, -h]), g)  # they agree
    torch.testing.assert_close(Projected()([g, 0 * h]), g)


@pytest.mark.parametrize("change", [lambda o: 2 * o, lambda o: o + CrossEntropy(), lambda o: CrossEntropy() + o])
def test_groups_are_no_sum_that_others_could_join(change) -> None:
    """They would be lost without a word."""
    with pytest.raises(UsageError, match="an objective of groups takes no factor and no further terms"):
        change(get_method("prograd").objective())


class TestTokensOfBothTowers:
    def test_maple_of_one_block_reads_texts_as_the_frozen_model(self) -> None:
        method = get_method("maple", {"depth": 1})
        f = filled(method, attached(method), make_batch(), templates=PROMPT)
        zero_shot = get_method("zero-shot")
        plain = filled(zero_shot, attached(zero_shot), make_batch(), templates=PROMPT)
        torch.testing.assert_close(f[Text()], plain[Text()], atol=1e-5, rtol=0)
        assert (f[Image()] - plain[Image()]).abs().max() > 1e-3

    def test_as_many_parameters_as_the_formulas_say(self) -> None:
        for name in ("maple", "ivlp"):
            model = attached(get_method(name))
            tokens, J = model.adapters["prompts"].length, model.adapters["prompts"].depth
            text, image = model.text_tower.width, model.image_tower.width
            coupled = J * (text * image + image)
            expected = J * tokens * text + (coupled if name == "maple" else J * tokens * image)
            assert sum(p.numel() for p in model.adapters.parameters()) == expected

    def test_three_quarters_of_the_blocks(self) -> None:
        model = attached(get_method("maple"))
        blocks = min(len(model.image_tower.blocks), len(model.text_tower.blocks))
        assert model.adapters["prompts"].depth == round(0.75 * blocks)
        assert round(0.75 * 12) == 9  # that of the paper
        own = get_method("ivlp", {"depth": 1})
        assert attached(own).adapters["prompts"].depth == 1
        assert Prompts(depth=None).depth is None

    @torch.no_grad()
    def test_the_loss_of_promptsrc_is_that_of_its_authors(self) -> None:
        """Their teacher is the raw mean of many prompts, on every data set."""
        method = get_method("promptsrc")
        model, batch = attached(method, std=0.3), make_batch()
        images, texts = model.encode_image(batch.images_BCHW), model.encode_text([f"{name}." for name in NAMES])
        with model.frozen():
            images0 = model.encode_image(batch.images_BCHW)
            raw = []
            for name in NAMES:
                tokens = model.tokenize([template.replace("{}", name) for template in imagenet_80()])
                raw.append(model.run("text", tokens)["feature"].mean(0))
        texts0 = F.normalize(torch.stack(raw), dim=-1)
        scale = model.network.logit_scale.exp()
        logits, logits0 = scale * images @ texts.T, scale * images0 @ texts0.T
        expected = {
            "cross_entropy": F.cross_entropy(logits, batch.labels_B),
            "l1_text": 25 * (texts - texts0).abs().mean(),
            "l1_image": 10 * (images - images0).abs().mean(),
            "consistency": (logits0.softmax(-1) * (logits0.log_softmax(-1) - logits.log_softmax(-1))).mean(),
        }
        found = terms(method, model, batch, templates=PROMPT)
        assert found.keys() == expected.keys()
        for label, value in expected.items():
            torch.testing.assert_close(found[label], value, rtol=1e-4, atol=1e-7)

    def test_the_kl_of_promptsrc_is_a_mean_over_classes_too(self) -> None:
        method = get_method("promptsrc", {"prompts": "own"})
        model, batch = attached(method, std=0.2), make_batch()
        f = filled(method, model, batch)
        scale = f.scale(Image())
        held = Text(method.objective().terms[3][1].teacher.view, "frozen")  # type: ignore[attr-defined]
        teacher = (scale * f[Image(state="frozen")] @ f[held].T).softmax(-1)
        student = f.logits().log_softmax(-1)
        expected = (teacher * (teacher.log() - student)).sum() / teacher.numel()
        torch.testing.assert_close(terms(method, model, batch)["consistency"], expected, rtol=1e-4, atol=1e-7)


def test_clip_adapter_is_zero_shot_without_its_net_and_knows_no_length() -> None:
    assert starts_frozen(get_method("clip-adapter", {"ratio": 0}), attached(get_method("zero-shot")))
    method = get_method("clip-adapter")
    model, batch = attached(method), make_batch()
    f = filled(method, model, batch)
    once = f.logits()
    g = filled(method, model, batch)
    g.raw[g.canonical(Image())] = 3 * g.raw[g.canonical(Image())]
    torch.testing.assert_close(g.logits(), once)
    h = f.get(Image())
    mixed = F.normalize(0.2 * F.relu(F.relu(h @ model.head.down.weight.T) @ model.head.up.weight.T) + 0.8 * h, dim=-1)
    torch.testing.assert_close(once, f.scale(Text()) * mixed @ f[Text()].T, rtol=1e-4, atol=1e-4)


def task(f, count: int = 12) -> FeatureTask:
    images = torch.randn(count, 1, f.model.embed_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % len(NAMES)
    text = torch.randn(len(NAMES), f.model.embed_dim, generator=torch.Generator().manual_seed(2))
    return FeatureTask(lambda part, views: (images, labels), lambda view: text, torch.tensor(20.0))


@pytest.mark.parametrize("name", ["taskres", "zs-lp", "clap", "cross-modal"])
def test_rows_start_as_the_class_texts_and_know_no_other_names(name: str) -> None:
    method = get_method(name)
    model, batch = attached(method), make_batch()
    f = filled(method, model, batch)
    data, view = task(f), method.head.text  # type: ignore[attr-defined]
    if method.head.solves:
        model.head.solve(data, 0)
    text_CD = data.text(view) if method.head.solves else f.get(Text(view))
    expected = f.scale(Image()) * f[Image()] @ F.normalize(text_CD, dim=-1).T
    torch.testing.assert_close(f.logits(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(NoHead, match="cannot name new classes"):
        model.head.check_names(["tractor"])


def test_clap_holds_a_class_by_the_zero_shot_probability_of_its_images() -> None:
    method = get_method("clap")
    model = attached(method)
    f = filled(method, model, make_batch())
    data = task(f)
    model.head.solve(data, 0)
    assert f.outputs(Image())["penalty"] == 0
    images, labels = data.images("train", 0)
    for k in range(len(NAMES)):
        own = [F.cosine_similarity(images[i], data.text(method.head.text)) for i in range(12) if labels[i] == k]
        expected = torch.stack([(20 * cosines).softmax(0)[k] for cosines in own]).mean()
        torch.testing.assert_close(model.head.share_C[k], expected, rtol=1e-4, atol=1e-6)
    model.head.weight.data[1] += 1
    moved = filled(method, model, make_batch()).outputs(Image())["penalty"]
    torch.testing.assert_close(moved, model.head.share_C[1] * model.embed_dim / len(NAMES))


def test_cross_modal_learns_from_texts_of_their_own_class() -> None:
    method = get_method("cross-modal", {"texts": 0.25})
    model = attached(method)
    f = filled(method, model, make_batch())
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    rows, scale = model.head.weight, f.scale(Image())
    by_image = F.cross_entropy(scale * f[Image()] @ rows.T, f.labels())
    by_text = F.cross_entropy(scale * f[Text()] @ rows.T, torch.arange(len(NAMES)))
    found = terms(method, model, make_batch())
    torch.testing.assert_close(sum(found.values()), 0.75 * by_image + 0.25 * by_text, rtol=1e-4, atol=1e-4)


def test_the_margin_of_clipood_is_that_of_its_paper() -> None:
    method = get_method("clipood")
    model, batch = attached(method), make_batch()
    f = filled(method, model, batch)
    text, labels, scale = f[Text()], batch.labels_B, f.scale(Image())
    losses = []
    for image, label in zip(f[Image()], labels, strict=True):
        logits = scale * text @ (image - 0.3 * text[label])
        losses.append(F.cross_entropy(logits, label))
    torch.testing.assert_close(
        sum(terms(method, model, batch).values()), torch.stack(losses).mean(), rtol=1e-4, atol=1e-4
    )
    plain = get_method("clipood", {"margin": 0})
    expected = F.cross_entropy(f.logits(), labels)
    torch.testing.assert_close(sum(terms(plain, model, batch).values()), expected, rtol=1e-5, atol=1e-5)


def test_only_the_last_blocks_are_trained() -> None:
    model = attached(get_method("full", {"blocks": 1}))
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    last = {id(p) for t in (model.image_tower, model.text_tower) for p in t.blocks[-1].module.parameters()}
    scale = {name for name, _ in model.network.named_parameters() if name.startswith("logit_")}
    assert trained == {name for name, p in model.network.named_parameters() if id(p) in last} | scale
    with pytest.raises(UsageError, match="blocks=9, but the image tower"):
        attached(get_method("full", {"blocks": 9}))


def test_gram_alignment_is_the_change_of_similarities() -> None:
    method = compose("gram", adapters=(Weights(blocks=1),), objective=CrossEntropy() + 2.0 * GramAlignment())
    assert parse_row(f"compose[{','.join(f'{k}={v}' for k, v in method.knobs().items() if v)}]").method == method
    model, batch = attached(method), make_batch()
    assert terms(method, model, batch)["gram_alignment"] < 1e-10
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    f = filled(method, model, batch)
    now, before = f[Image()], f[Image(state="frozen")]
    total = sum((now[i] @ now[j] - before[i] @ before[j]) ** 2 for i in range(6) for j in range(6))
    torch.testing.assert_close(terms(method, model, batch)["gram_alignment"], 2 * total / 36, rtol=1e-4, atol=1e-8)


def test_class_contrast_is_the_supervised_contrastive_loss() -> None:
    method = compose("mps", adapters=(Weights(blocks=1),), objective=CrossEntropy() + 0.5 * ClassContrast())
    assert parse_row(f"compose[{','.join(f'{k}={v}' for k, v in method.knobs().items() if v)}]").method == method
    model, batch = attached(method, std=0.1), make_batch()
    f = filled(method, model, batch)
    images, texts, labels, scale = f[Image()], f[Text()], batch.labels_B.tolist(), f.scale(Image())
    losses = []
    for i, label in enumerate(labels):
        others = [(images[j], labels[j]) for j in range(6) if j != i] + [(text, k) for k, text in enumerate(texts)]
        logits = torch.stack([scale * images[i] @ other for other, _ in others]).log_softmax(0)
        losses.append(-torch.stack([x for x, (_, k) in zip(logits, others, strict=True) if k == label]).mean())
    found = terms(method, model, batch)["class_contrast"]
    torch.testing.assert_close(found, 0.5 * torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_random_texts_are_new_in_each_step_and_the_same_for_one_seed() -> None:
    method = get_method("lipsum-ft")
    model = attached(method)
    first, again, other = (
        RandomTexts(number=3).texts(filled(method, model, make_batch(), seed=seed), None) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [len(words.split()) for (words,) in first] == [8, 8, 8]


class TestSharedBottleneck:
    def test_with_its_last_layer_at_zero_it_is_zero_shot(self) -> None:
        method, plain = get_method("mma"), get_method("zero-shot")
        model, frozen = attached(method), attached(plain)
        for layer in (up for adapter in model.adapters.values() for up in adapter.up.values()):
            torch.nn.init.zeros_(layer.weight)
        ours, theirs = filled(method, model, make_batch()), filled(plain, frozen, make_batch())
        torch.testing.assert_close(ours[Image()], theirs[Image()])
        torch.testing.assert_close(ours[Text()], theirs[Text()])

    def test_a_block_is_the_formula(self) -> None:
        model = attached(get_method("mma", {"scale": 0.5}))
        adapter, x = model.adapters["shared_0"], torch.randn(2, 3, model.image_tower.width)
        block = adapter.blocks["image"]
        with torch.no_grad():
            with model.frozen():
                plain = run(block, x)
            tuned = run(block, x)
            inner = adapter.down["image"](block.norm1(x)).relu()
            adapter._beside.clear()
            expected = plain + 0.5 * adapter.up["image"](adapter.shared(inner).relu())
        torch.testing.assert_close(tuned, expected)

    @pytest.mark.parametrize("full", [True, False])
    def test_what_flows_down_knows_the_scale(self, full: bool) -> None:
        model = attached(get_method("mma", {"scale": 0.01, "full_gradient": full}), std=0.3)
        adapter = model.adapters["shared_0"]
        block, x = adapter.blocks["image"], torch.randn(2, 3, model.image_tower.width, requires_grad=True)
        onto = torch.randn(x.shape)

        def gradient(y: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad((onto * y).sum(), x)[0]

        adapter.enabled = False
        plain, inner = gradient(run(block, x)), adapter.down["image"](block.norm1(x)).relu()
        beside = gradient(adapter.up["image"](adapter.shared(inner).relu()))
        adapter.enabled = True
        torch.testing.assert_close(gradient(run(block, x)) - plain, 0.01 * beside, rtol=1e-3, atol=1e-6)

    def test_the_gradient_of_its_weights_does_not_know_the_scale(self) -> None:
        found = {}
        for scale, full in ((0.01, True), (0.02, True), (0.01, False), (0.02, False)):
            step_gradients = gradients(get_method("mma", {"scale": scale, "full_gradient": full}))
            found[scale, full] = step_gradients["adapters.shared_0.up.image.weight"].norm()
        assert found[0.02, True] == pytest.approx(float(found[0.01, True]), rel=0.2)
        assert found[0.02, False] == pytest.approx(2 * float(found[0.01, False]), rel=0.2)
        assert found[0.01, True] > 20 * found[0.01, False]

    def test_as_many_parameters_as_the_formula_says(self) -> None:
        model = attached(get_method("mma", {"rank": 4}))
        expected = 0
        for tower in (model.image_tower, model.text_tower):
            blocks = len(tower.blocks) - len(tower.blocks) // 3
            expected += blocks * (tower.width * 4 + 4 + 4 * tower.width + tower.width)
        expected += len(model.adapters) * (4 * 4 + 4)
        assert sum(p.numel() for p in model.adapters.parameters()) == expected


def run(block, x: torch.Tensor) -> torch.Tensor:
    out = block.module(x, attention_mask=None)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def test_tcp_makes_tokens_from_the_class_by_the_data_sets_own_prompt() -> None:
    method = get_method("tcp")
    model = attached(method, std=0.3)
    f = filled(method, model, make_batch())
    with model.frozen():
        by_hand = model.encode_text([f"a photo of a {name}." for name in NAMES])
    model.adapters["prompts"].given = by_hand
    expected = model.run("text", model.tokenize([f"{name}." for name in NAMES], slots=True))["feature"]
    torch.testing.assert_close(f.get(Text()), expected)
    model.adapters["prompts"].given = by_hand.flip(0)
    other = model.run("text", model.tokenize([f"{name}." for name in NAMES], slots=True))["feature"]
    assert (other - expected).abs().amax(1).min() > 1e-3
    drawn = Text(DrawnPrompts(draw="image"))  # other prompts of the same names: one class has one text
    method = compose("drawn", adapters=method.adapters, objective=InfoNCE(drawn))
    f = filled(method, model, make_batch(4))
    torch.testing.assert_close(f.get(drawn), expected)
