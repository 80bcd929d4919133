"""Tip-Adapter's head against loops and the limits of its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from head_world import clusters, logits, task
from steadyclip.core.errors import UsageError
from steadyclip.evaluation import Scorer
from steadyclip.heads import CacheHead, NoHead
from steadyclip.heads.base import FeatureTask
from steadyclip.methods import get_method
from steadyclip.models.testing import tiny
from zero_shot import zero_shot_logits

NAMES = list("abcde")
SHOTS = 20


def text_features() -> Tensor:
    return F.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(9)), dim=-1)


def votes(queries_BD: Tensor, names=NAMES, **knobs) -> tuple[Tensor, Tensor]:
    """Logits of a head filled from ``clusters(1)``, and what it adds to the zero-shot logits."""
    model = tiny("clip")
    head = CacheHead(**knobs).build(model, NAMES)
    head.solve(task(clusters(1)), seed=0)
    text_CD = text_features()[[NAMES.index(name) for name in names]]
    found_BC = logits(model, head, queries_BD, names, text_CD)
    return found_BC, (found_BC - zero_shot_logits(model, queries_BD, text_CD)).detach()


@pytest.fixture
def queries() -> Tensor:
    return clusters(2, noise=1.0, per_class=2)[0]


def test_equals_a_loop_over_keys(queries) -> None:
    keys_ND, labels_N = clusters(1)
    _, vote_BC = votes(queries, alpha=2.0, beta=3.0)
    expected = torch.zeros(len(queries), 5)
    for b, query in enumerate(queries):
        for key, label in zip(keys_ND, labels_N.tolist(), strict=True):
            expected[b, label] += 2.0 * math.exp(-3.0 * (1 - float(query @ key)))
    torch.testing.assert_close(vote_BC, expected, atol=1e-4, rtol=1e-5)


def test_without_weight_it_is_zero_shot(queries) -> None:
    found_BC, _ = votes(queries, alpha=0.0)
    torch.testing.assert_close(found_BC, zero_shot_logits(tiny("clip"), queries, text_features()).detach())


def test_without_sharpness_balanced_classes_get_a_constant(queries) -> None:
    _, vote_BC = votes(queries, alpha=1.5, beta=0.0)
    torch.testing.assert_close(vote_BC, torch.full_like(vote_BC, 1.5 * SHOTS), atol=1e-4, rtol=0)


def test_with_much_sharpness_the_nearest_key_votes(queries) -> None:
    keys_ND, labels_N = clusters(1)
    _, vote_BC = votes(queries, alpha=1e30, beta=300.0)  # so that the zero-shot logits are nothing beside it
    assert (vote_BC.argmax(1) == labels_N[(queries @ keys_ND.T).argmax(1)]).all()


def test_an_image_of_the_cache_votes_for_itself() -> None:
    keys_ND, labels_N = clusters(1)
    _, vote_BC = votes(keys_ND, alpha=1.5)
    assert (vote_BC[torch.arange(len(keys_ND)), labels_N] >= 1.5 - 1e-5).all()


def test_a_part_of_its_classes_keeps_their_votes_and_no_other_name_is_known(queries) -> None:
    _, all_BC = votes(queries)
    _, some_BC = votes(queries, names=["d", "b"])
    torch.testing.assert_close(some_BC, all_BC[:, [3, 1]], atol=1e-5, rtol=1e-5)
    model, method = tiny("clip"), get_method("tip-adapter")
    method.attach(model, NAMES)
    with pytest.raises(NoHead, match="a cache of training images cannot name new classes: 1 of 2"):
        Scorer(model, method, ["a", "z"], ["{}"])


def test_with_trained_keys_it_starts_as_without(queries) -> None:
    plain, trained = (votes(queries, trained=trained)[0] for trained in (False, True))
    assert torch.equal(plain, trained)
    heads = {trained: CacheHead(trained=trained).build(tiny("clip"), NAMES) for trained in (False, True)}
    for trained, head in heads.items():
        head.solve(task(clusters(1)), seed=0)
        assert [name for name, p in head.named_parameters() if p.requires_grad] == ["keys_ND"] * trained
        assert head.keys_ND.shape == (5 * SHOTS, 24)


def test_a_key_is_the_mean_of_raw_views_normalized() -> None:
    """Raw: a long view weighs more than a short one."""
    features_NVD = torch.randn(4, 10, 24, generator=torch.Generator().manual_seed(0))
    asked = []

    def images(split, views):
        asked.append((split, views))
        return features_NVD, torch.arange(4)

    head = CacheHead().build(tiny("clip"), NAMES)
    assert head.solve(FeatureTask(images, lambda view: torch.zeros(0), torch.tensor(1.0)), seed=0) == {"keys": 4}
    assert asked == [("train", 10)]
    for key, views in zip(head.keys_ND, features_NVD, strict=True):
        mean = sum(views) / 10
        torch.testing.assert_close(key.detach(), mean / mean.norm())


def test_a_filled_head_is_read_back_without_images() -> None:
    model = tiny("clip")
    method = get_method("tip-adapter-f")
    method.attach(model, NAMES)
    model.head.solve(task(clusters(1)), seed=0)
    other = tiny("clip")
    method.attach(other, NAMES)
    other.load_trained_state(model.trained_state())
    assert torch.equal(other.head.keys_ND, model.head.keys_ND)
    assert torch.equal(other.head.values_N, model.head.values_N)


@pytest.mark.parametrize("knobs", [{"beta": -1}, {"key_views": -1}])
def test_knobs_out_of_range_are_named(knobs) -> None:
    with pytest.raises(UsageError, match="must be 0 or more"):
        get_method("tip-adapter", knobs)


def test_search_takes_the_first_pair_that_names_most_validation_images() -> None:
    model, data = tiny("clip"), task(clusters(1, noise=1.0), clusters(3, noise=1.0), text_features())
    head = CacheHead(search=True, key_views=0).build(model, NAMES)
    found = head.solve(data, seed=0)
    (val, labels), text_CD = data.images("val", 0), F.normalize(data.text(head.spec.text), dim=-1)
    x, best = F.normalize(val[:, 0], dim=-1), (-1, 0.0, 0.0)
    for beta in (0.1 * 500 ** (i / 39) for i in range(40)):
        affinity = (-beta * (1 - x @ head.keys_ND.T)).exp()
        for alpha in (0.1 * 500 ** (i / 19) for i in range(20)):
            voted = data.scale * x @ text_CD.T + alpha * affinity @ F.one_hot(head.values_N).float()
            right = int((voted.argmax(1) == labels).sum())
            best = max(best, (right, alpha, beta), key=lambda one: one[0])
    assert found["validation"] == round(best[0] / len(labels), 4)
    assert (found["alpha"], found["beta"]) == (pytest.approx(best[1], abs=1e-3), pytest.approx(best[2], abs=1e-3))
    default = CacheHead(key_views=0).build(model, NAMES)
    default.solve(data, seed=0)
    twin = CacheHead(search=True, key_views=0).build(model, NAMES)
    twin.take_lengths(head.state_dict())
    twin.load_state_dict(head.state_dict())
    queries = clusters(2, noise=1.0, per_class=2)[0]
    ours, theirs, read_back = (logits(model, h, queries, NAMES, text_CD) for h in (head, default, twin))
    assert torch.equal(ours, read_back)
    assert not torch.allclose(ours, theirs)
    with pytest.raises(UsageError, match="search=true chooses alpha and beta on validation images, and there are none"):
        head.solve(task(clusters(1)), seed=0)
    with pytest.raises(UsageError, match="search=True of 'cache_head' must be false where the keys are trained"):
        CacheHead(search=True, trained=True)
