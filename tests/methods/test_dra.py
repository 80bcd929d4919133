"""The loss of DRA and its controls. What is computed how often is in test_passes.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from method_world import NAMES, attached, encoded, make_batch, terms, trained
from steadyclip.adapters import TokenRank, TokenRankBlock, watch_tokens
from steadyclip.core.errors import UsageError
from steadyclip.evaluation import Scorer
from steadyclip.methods import get_method
from steadyclip.methods.dra import DRA
from steadyclip.models import DualEncoder, Tower
from steadyclip.models.testing import tiny
from steadyclip.training.step import Step
from zero_shot import zero_shot_logits


def dra(**adapter) -> DRA:
    """The method with other knobs of its adapter."""
    return DRA(adapters=(TokenRank(**adapter),))


def adapted(method: DRA, family: str = "clip") -> DualEncoder:
    return attached(method, family, std=0.2)


def count_runs(tower: Tower) -> list[int]:
    runs: list[int] = []
    tower.blocks[0].module.register_forward_hook(lambda _, args, __: runs.append(len(args[0])))
    return runs


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_loss_is_cross_entropy_plus_the_distance_to_the_frozen_features(family: str) -> None:
    method = DRA(l1_weight=0.1, l1_image=3.0, l1_text=7.0)
    model, batch = adapted(method, family), make_batch()
    image_BD, text_CD = encoded(model, batch)
    image0_BD, text0_CD = encoded(tiny(family), batch)
    l1_image = sum((image_BD - image0_BD).abs().flatten().tolist()) / image_BD.numel()
    l1_text = sum((text_CD - text0_CD).abs().flatten().tolist()) / text_CD.numel()
    expected = {
        "cross_entropy": F.cross_entropy(zero_shot_logits(model, image_BD, text_CD), batch.labels_B),
        "l1_image": torch.tensor(0.1 * 3.0 * l1_image),
        "l1_text": torch.tensor(0.1 * 7.0 * l1_text),
    }
    torch.testing.assert_close(terms(method, model, batch), expected)
    assert l1_image > 1e-3
    assert l1_text > 1e-3


def test_l1_on_what_is_added() -> None:
    method = DRA(l1="delta", l1_weight=1.0)
    model, batch = adapted(method), make_batch()
    step = Step(method, model, NAMES, ("a photo of a {}.",))
    found = step.gradients(batch, seed=0)
    with torch.no_grad(), watch_tokens(model) as traces:
        encoded(model, batch)
    for tower, weight in (("image", 10.0), ("text", 25.0)):
        means = [t.delta_BND[t.ranks_BN > 0].abs().mean() for t in traces if t.tower == tower]
        torch.testing.assert_close(found[f"l1_{tower}"], weight * sum(means) / len(means))
    for parameter in step.trained.values():
        parameter.grad = None
    step.objective = dataclasses.replace(step.objective, parts=step.objective.parts[1:])  # without cross-entropy
    step.gradients(batch, seed=0)
    adapter = model.adapters["image_0_mlp"]
    assert isinstance(adapter, TokenRankBlock)
    assert adapter.traces is None
    assert adapter.up.grad is not None
    assert adapter.up.grad.abs().sum() > 0


@pytest.mark.parametrize("method", [DRA(l1="off"), DRA(l1_weight=0.0)])
def test_without_l1_only_the_cross_entropy_is_left(method: DRA) -> None:
    model = adapted(method)
    runs = count_runs(model.image_tower)
    assert list(terms(method, model, make_batch())) == ["cross_entropy"]
    assert runs == [6]


@pytest.mark.parametrize(("tower", "other"), [("image", "text"), ("text", "image")])
def test_one_tower_only(tower: str, other: str) -> None:
    method = get_method("dra", {"towers": tower})
    model, batch = adapted(method), make_batch()
    assert {key.split("_")[0] for key in model.adapters} == {tower}
    runs = count_runs(model.image_tower)
    assert list(terms(method, model, batch)) == ["cross_entropy", f"l1_{tower}"]
    assert len(runs) == (2 if tower == "image" else 1)  # no frozen pass where nothing can differ
    features = dict(zip(("image", "text"), encoded(model, batch), strict=True))
    with model.frozen():
        frozen = dict(zip(("image", "text"), encoded(model, batch), strict=True))
    assert torch.equal(features[other], frozen[other])
    assert not torch.allclose(features[tower], frozen[tower], atol=1e-4)


def ranks_of(method: DRA) -> tuple[Tensor, Tensor]:
    """Scores and ranks in the last block of the image tower."""
    model = adapted(method).eval()
    with torch.no_grad(), watch_tokens(model) as traces:
        model.encode_image(make_batch().images_BCHW)
    return traces[-1].scores_BN, traces[-1].ranks_BN


def test_controls_move_the_ranks_and_nothing_else() -> None:
    scores_BN, ranks_BN = ranks_of(DRA())
    patches = slice(1, None)
    for scores_N, ranks_N in zip(scores_BN[:, patches], ranks_BN[:, patches], strict=True):
        assert scores_N[ranks_N == 32].min() >= scores_N[ranks_N == 16].max()
        assert scores_N[ranks_N == 16].min() >= scores_N[ranks_N == 8].max()
    assert (ranks_BN[:, 0] == 32).all()
    scores_BN, ranks_BN = ranks_of(dra(assignment="inverse"))
    for scores_N, ranks_N in zip(scores_BN[:, patches], ranks_BN[:, patches], strict=True):
        assert scores_N[ranks_N == 8].min() >= scores_N[ranks_N == 16].max() >= scores_N[ranks_N == 32].max()
    _, ranks_BN = ranks_of(dra(assignment="random"))
    assert sorted(ranks_BN[0].tolist()) == [8] * 5 + [16] * 6 + [32] * 6
    assert (ranks_BN[0] == ranks_BN[1]).all()


def test_uniform_has_as_many_multiply_adds() -> None:
    for shares, mean in ((None, 19), ((0.5, 0.25, 0.25), 22)):
        _, ranks_BN = ranks_of(dra(assignment="uniform", shares=shares))
        assert (ranks_BN == mean).all()
        _, dynamic_BN = ranks_of(dra(shares=shares))
        assert abs(float(dynamic_BN.float().mean()) - mean) < 1


def test_dra_and_the_bottleneck_baseline_have_equal_parameters() -> None:
    counts = []
    for name in ("dra", "bottleneck"):
        model = tiny("clip")
        get_method(name).attach(model, NAMES)
        counts.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert counts[0] == counts[1]


def test_text_features_depend_on_the_prompts_alone_so_a_head_encodes_them_once() -> None:
    model = adapted(DRA())
    with torch.no_grad():
        before = model.encode_text(NAMES)
        model.encode_image(make_batch().images_BCHW)
        assert torch.equal(model.encode_text(NAMES), before)
        runs = count_runs(model.text_tower)
        scorer = Scorer(model, DRA(), NAMES, ("a photo of a {}.",))
        for images_BCHW in make_batch().images_BCHW.split(1):
            scorer.logits(model.run("image", images_BCHW))
    assert runs == [len(NAMES)]


def test_it_learns_and_l1_holds_it_near_the_frozen_model() -> None:
    losses, moved = {}, {}
    for l1 in ("off", "features"):
        method = get_method("dra", {"l1": l1})
        model, batch = attached(method), make_batch()
        step = Step(method, model, NAMES, ("a photo of a {}.",))
        found = trained(step, batch, 30, 0.01, torch.optim.AdamW)
        losses[l1] = [float(terms["cross_entropy"]) for terms in found]
        moved[l1] = F.l1_loss(encoded(model, batch)[1], encoded(tiny("clip"), batch)[1]).item()
    assert losses["off"][-1] < 0.1 * losses["off"][0]
    assert losses["features"][-1] < 0.9 * losses["features"][0]
    assert moved["features"] < 0.5 * moved["off"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ranks": "8,16"}, "whole numbers, the largest first"),
        ({"ranks": "8,0"}, "whole numbers, the largest first"),
        ({"shares": "0.5,0.5"}, "3 numbers above 0, one for each rank, adding up to 1"),
        ({"shares": "0.5,0.25,0.2"}, "adding up to 1"),
        ({"first_block": "0"}, "at least 1"),
        ({"scale": "0"}, "above 0"),
        ({"l1_weight": "-1"}, "0 or more"),
        ({"assignment": "best"}, "one of importance, inverse, random, uniform"),
    ],
)
def test_knobs_out_of_range_are_named(knobs: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_method("dra", knobs)
    with pytest.raises(UsageError, match=r"of (method )?'(dra|token_rank)'"):
        get_method("dra", knobs)


@pytest.mark.parametrize(
    "knobs",
    [
        {"score": "received"},
        {"score": "learned"},
        {"channel": "squeeze_excite"},
        {"assignment": "random"},
        {"l1": "delta"},
        {"shares": "0.2,0.3,0.5"},
    ],
    ids=str,
)
def test_every_option_keeps_the_promises_of_a_method(knobs: dict[str, str]) -> None:
    from steadyclip.testing import check_method

    check_method(get_method("dra", knobs), families=["clip"])
