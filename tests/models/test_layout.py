"""What a tower tells of its tokens: padding, the summary token, the direction of reading."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from steadyclip.core.errors import ModelError
from steadyclip.models import Adapter, DualEncoder, Layout, Tower

from .conftest import TEXTS


class Idle(Adapter):
    """Does nothing; but layouts are only made where an adapter may ask for them."""

    def install(self) -> list[RemovableHandle]:
        return []


def layout_of(model: DualEncoder, tower: Tower) -> tuple[Layout, Tensor]:
    """As a hook on the last block sees it, with the block's output."""
    seen = []

    def look(_, __, output: Tensor) -> None:
        seen.append((tower.layout(output.shape[1]), output))

    if "idle" not in model.adapters:
        model.attach("idle", Idle())
    handle = tower.blocks[-1].module.register_forward_hook(look)
    with torch.no_grad():
        if tower.name == "image":
            model.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        else:
            model.encode_text(TEXTS)
    handle.remove()
    return seen[0]


def test_images_have_no_padding_and_a_summary_where_the_model_has_one(model: DualEncoder) -> None:
    layout, output_BND = layout_of(model, model.image_tower)
    assert layout.valid_BN.all()
    assert layout.valid_BN.shape == output_BND.shape[:2]
    assert not layout.causal
    if model.family.startswith("siglip"):
        assert layout.summary_B is None
        assert output_BND.shape[1] == 16
    else:
        assert layout.summary_B is not None
        assert layout.summary_B.tolist() == [0, 0, 0]
        assert output_BND.shape[1] == 17


def test_texts_end_at_the_summary_and_padding_is_not_valid(model: DualEncoder) -> None:
    layout, _ = layout_of(model, model.text_tower)
    ids_BL = model.tokenize(TEXTS)["input_ids"]
    assert layout.valid_BN.shape == ids_BL.shape
    assert layout.summary_B is not None
    for ids, valid, summary, text in zip(ids_BL, layout.valid_BN, layout.summary_B, TEXTS, strict=True):
        assert valid[summary]
        if model.family.startswith("siglip"):
            assert int(summary) == len(ids) - 1
            assert valid.tolist() == [int(i) != 0 or n == len(ids) - 1 for n, i in enumerate(ids)]
        else:
            assert int(ids[summary]) == int(ids.max())
            assert valid.tolist() == [n <= int(summary) for n in range(len(ids))]
        if model.family != "open_clip":  # the others' tiny tokenizers spell letter by letter
            letters = len(text.replace(" ", "")) if model.family == "clip" else len(text)
            assert int(valid.sum()) >= min(letters, len(ids))
    assert layout.causal == (model.family in ("clip", "open_clip"))


def test_the_summary_is_what_the_feature_is_read_from(model: DualEncoder) -> None:
    """Changing another valid token of the last block changes no feature; changing the summary token does."""
    for tower in (model.image_tower, model.text_tower):
        layout, _ = layout_of(model, tower)
        if layout.summary_B is None:
            continue
        before = _features(model, tower)
        others_BN = layout.valid_BN.clone()
        others_BN[torch.arange(len(others_BN)), layout.summary_B] = False
        for chosen_BN, same in ((others_BN, True), (layout.valid_BN & ~others_BN, False)):
            handle = tower.blocks[-1].module.register_forward_hook(
                lambda _, __, output, chosen=chosen_BN: output + chosen[..., None] * torch.linspace(-1, 1, 32)
            )
            assert torch.allclose(_features(model, tower), before, atol=1e-6) == same
            handle.remove()


@torch.no_grad()
def _features(model: DualEncoder, tower: Tower) -> Tensor:
    if tower.name == "text":
        return model.encode_text(TEXTS)
    return model.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_outside_of_an_encoding_there_is_no_layout(model: DualEncoder) -> None:
    with pytest.raises(ModelError, match="image tower has adapters that must know its tokens: call encode_image"):
        model.image_tower.layout(17)
    layout_of(model, model.text_tower)
    with pytest.raises(ModelError, match="call encode_text"):
        model.text_tower.layout(5)


def test_a_text_tower_with_tokens_of_its_own_is_refused(model: DualEncoder) -> None:
    model.attach("idle", Idle())
    handle = model.text_tower.blocks[0].module.register_forward_hook(
        lambda _, __, output: model.text_tower.layout(output.shape[1] + 1) and None
    )
    with pytest.raises(ModelError, match="adds tokens of its own"):
        model.encode_text(TEXTS)
    handle.remove()


def test_a_plain_model_makes_no_layouts(model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_) -> None:
        raise AssertionError("a layout was made")

    monkeypatch.setattr(type(model._backend), "text_layout", refuse)
    model.encode_text(TEXTS)
    model.attach("idle", Idle())
    with model.frozen():
        model.encode_text(TEXTS)
    with pytest.raises(AssertionError, match="a layout was made"):
        model.encode_text(TEXTS)


def test_learned_tokens_are_not_valid_and_move_the_summary() -> None:
    layout = Layout(torch.tensor([[True, True, True, False]]), torch.tensor([2]), causal=True)
    grown = layout.grown(1, 2)
    assert grown.valid_BN.tolist() == [[True, False, False, True, True, False]]
    assert grown.summary_B is not None
    assert (grown.summary_B.tolist(), grown.causal) == ([4], True)
    behind = Layout(torch.ones(1, 2, dtype=torch.bool), torch.tensor([0]), causal=False).grown(2, 1)
    assert behind.valid_BN.tolist() == [[True, True, False]]
    assert behind.summary_B is not None
    assert behind.summary_B.tolist() == [0]
    replaced = layout.replaced(1, torch.tensor([1]))
    assert replaced.valid_BN.tolist() == [[True, False, True, False]]
    assert replaced.summary_B is layout.summary_B
