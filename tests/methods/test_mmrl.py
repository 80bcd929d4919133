"""MMRL: sizes, what the tokens see, limits, and who has a say on which names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from method_world import NAMES, attached, filled, make_batch, terms
from steadyclip.adapters import Prompts, SpaceTokens, Towers
from steadyclip.adapters.space import SpaceMaps, grown_mask
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.heads import TextHead
from steadyclip.methods import compose, get_method
from steadyclip.objectives import CrossEntropy, Image, Text
from steadyclip.testing import starts_frozen


def test_as_many_parameters_as_the_authors_have() -> None:
    model = attached(get_method("mmrl"))
    maps = model.adapters["space"]
    assert isinstance(maps, SpaceMaps)
    width = {"text": model.text_tower.width, "image": model.image_tower.width}
    blocks = {name: len(tower.blocks) - maps.first[name] for name, tower in maps.towers.items()}
    expected = 5 * 512 + sum(blocks[n] * (512 + 1) * width[n] for n in width) + width["image"] * model.embed_dim
    assert sum(p.numel() for p in maps.parameters()) == expected
    for of_tower in maps.maps.values():
        first, *later = of_tower  # type: ignore[misc]
        assert all(torch.equal(first.weight, other.weight) for other in later)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_the_mask_is_that_of_the_longer_sequence(causal: bool, start: int, dtype: torch.dtype) -> None:
    def mask(valid: torch.Tensor) -> torch.Tensor:
        sees = valid[None].expand(len(valid), -1).clone()
        if causal:
            sees &= torch.ones_like(sees).tril()
        may = sees[None, None]
        return may if dtype == torch.bool else torch.zeros(may.shape).masked_fill(~may, -torch.inf)

    short = torch.tensor([True] * 5 + [False] * 2)
    long = torch.cat([short[:start], torch.ones(3, dtype=torch.bool), short[start:]])
    grown = grown_mask(mask(short), start, 3, causal)
    assert torch.equal(grown, mask(long))


def test_the_start_of_a_text_does_not_see_the_tokens_and_the_end_does() -> None:
    method = get_method("mmrl")
    model, seen = attached(method), []
    last = model.text_tower.blocks[-1].module
    handle = last.register_forward_hook(lambda _, __, x: seen.append(x.detach()))
    with torch.no_grad():
        moved = model.encode_text(list(NAMES))
        with model.frozen():
            frozen = model.encode_text(list(NAMES))
    handle.remove()
    assert seen[0].shape == seen[1].shape
    torch.testing.assert_close(seen[0][:, 0], seen[1][:, 0])
    assert (moved - frozen).abs().max() > 1e-4


def test_padding_and_other_texts_change_nothing() -> None:
    model = attached(get_method("mmrl"), std=0.3)
    alone = torch.cat([model.encode_text([name]) for name in NAMES])
    torch.testing.assert_close(model.encode_text(list(NAMES)), alone, atol=1e-5, rtol=0)


def test_tokens_have_a_say_on_trained_classes_only() -> None:
    method = get_method("mmrl")
    model, batch = attached(method, std=0.3), make_batch()
    f = filled(method, model, batch)
    out, scale = f.outputs(Image()), f.scale(Image())
    by_class = scale * f[Image()] @ f[Text()].T
    by_space = scale * F.normalize(f.get(Image(what="space"))[:, 0], dim=-1) @ f[Text()].T
    torch.testing.assert_close(out["logits"], 0.7 * by_class + 0.3 * by_space, rtol=1e-4, atol=1e-4)
    f = filled(method, model, batch, names=(*NAMES[:2], "tractor"))
    torch.testing.assert_close(f.logits(), scale * f[Image()] @ f[Text()].T, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_the_paper() -> None:
    method = get_method("mmrl", {"w": 2})
    model, batch = attached(method, std=0.3), make_batch()
    f, found = filled(method, model, batch), terms(method, model, batch)
    out, labels = f.outputs(Image()), batch.labels_B
    expected = 0.7 * F.cross_entropy(out["class"], labels) + 0.3 * F.cross_entropy(out["space"], labels)
    for read in (Image, Text):
        expected = expected + 2 * (1 - (f[read()] * f[read(state="frozen")]).sum(-1).mean())
    torch.testing.assert_close(sum(found.values()), expected, rtol=1e-4, atol=1e-5)


def test_without_its_say_and_its_hold_it_is_cross_entropy_on_the_image() -> None:
    method = get_method("mmrl", {"alpha": 1, "w": 0})
    model, batch = attached(method, std=0.3), make_batch()
    plain = compose("plain", adapters=method.adapters, head=TextHead(), objective=CrossEntropy(), recipe=method.recipe)
    other = attached(plain, std=0.3)
    ours, theirs = terms(method, model, batch), terms(plain, other, batch)
    torch.testing.assert_close(sum(ours.values()), sum(theirs.values()))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("towers", "named"), [("both", "image"), ("image", "image"), ("text", "text")])
def test_two_pieces_cannot_both_give_a_tower_tokens(towers: Towers, named: str, swapped: bool) -> None:
    """The later would overwrite what the other learns."""
    pieces = (Prompts(towers, depth=2), SpaceTokens())
    method = compose("both", adapters=pieces[::-1] if swapped else pieces, objective=CrossEntropy())
    with pytest.raises(ModelError, match=f"two pieces give the {named} tower learned tokens: leave one out"):
        attached(method)


def test_a_block_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="first_block=40"):
        attached(get_method("mmrl", {"first_block": 40}))


def test_it_does_not_start_as_the_frozen_model() -> None:
    assert not starts_frozen(get_method("mmrl"), attached(get_method("zero-shot")))
