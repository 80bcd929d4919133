"""Equality with open_clip itself. Skipped where it is not installed, or where its torchvision does not fit torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steadyclip.core.errors import ModelError
from steadyclip.models import DualEncoder, load
from steadyclip.models.openclip import SplitAttention, import_open_clip
from zero_shot import zero_shot_logits

from .conftest import TEXTS, attach_everywhere, features
from .test_preprocess import SIZES, picture

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def family(checkpoints: dict[str, Path]) -> str:
    if "open_clip" not in checkpoints:
        pytest.skip("open_clip is not installed, or its torchvision does not fit torch")
    return "open_clip"


def assert_equal_to_stock(model: DualEncoder, folder: Path) -> None:
    open_clip = import_open_clip()
    stock = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    images, texts = features(model)
    with torch.no_grad():
        assert torch.allclose(images, F.normalize(stock.encode_image(PIXELS), dim=-1), rtol=0, atol=1e-6)
        assert torch.allclose(texts, F.normalize(stock.encode_text(tokens), dim=-1), rtol=0, atol=1e-6)
        logits, _ = stock.get_logits(PIXELS, tokens)
    assert torch.allclose(zero_shot_logits(model, images, texts), logits, rtol=0, atol=1e-4)


def test_features_and_logits_equal_open_clip(model: DualEncoder, folder: Path) -> None:
    assert_equal_to_stock(model, folder)


def test_a_merged_and_saved_model_is_a_stock_checkpoint(model: DualEncoder, tmp_path: Path) -> None:
    attach_everywhere(model)
    model.merge_adapters()
    model.save(tmp_path)
    assert_equal_to_stock(model, tmp_path)


def test_a_text_tower_of_its_own_and_another_activation(folder: Path, tmp_path: Path) -> None:
    """CustomTextCLIP with QuickGELU, a logit bias and squashed images."""
    open_clip = import_open_clip()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"custom_text": True, "quick_gelu": True, "init_logit_bias": -4.0}
    config["model_cfg"]["text_cfg"] |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    config["preprocess_cfg"]["resize_mode"] = "squash"
    cfg = {key: value for key, value in config["model_cfg"].items() if key != "custom_text"}
    torch.manual_seed(0)
    network = open_clip.CustomTextCLIP(**cfg)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "open_clip_model.safetensors")
    model = load(tmp_path)
    assert float(model.logit_bias) == -4.0
    assert_equal_to_stock(model, tmp_path)
    model.save(tmp_path / "again")
    assert_equal_to_stock(load(tmp_path / "again"), tmp_path / "again")
    assert load(tmp_path / "again").weights_hash == model.weights_hash


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_pixels_equal_open_clip(folder: Path, tmp_path: Path, resize_mode: str) -> None:
    open_clip = import_open_clip()
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = resize_mode
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{copy}")
    preprocess = load(copy).preprocess
    for size in [*SIZES, (35, 32), (38, 32), (39, 32), (32, 35)]:
        assert torch.allclose(preprocess(picture(*size)), transform(picture(*size)), rtol=0, atol=1e-6)


def test_unknown_models_and_weights(family: str) -> None:
    with pytest.raises(ModelError, match=r"no model 'ViT-B-31'.*Did you mean"):
        load("open_clip:ViT-B-31/openai")
    with pytest.raises(ModelError, match=r"no weights 'mine' for 'ViT-B-32': .*openai"):
        load("open_clip:ViT-B-32/mine")
    with pytest.raises(ModelError, match=r"no weights are named for 'ViT-B-32'"):
        load("open_clip:ViT-B-32")


def test_a_tower_that_is_not_a_transformer_is_named(folder: Path, tmp_path: Path) -> None:
    open_clip = import_open_clip()
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
    network = open_clip.CLIP(**config["model_cfg"])
    from safetensors.torch import save_file

    save_file(network.state_dict(), copy / "open_clip_model.safetensors")
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"ModifiedResNet is not one of open_clip's own transformers"):
        load(copy)


def test_split_attention_equals_the_packed_one() -> None:
    """Needs no open_clip."""
    torch.manual_seed(0)
    packed = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(packed.in_proj_bias)
    nn.init.normal_(packed.out_proj.bias)
    split = SplitAttention(packed)
    x, y = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    for query, key, mask in [
        (x, x, None),
        (x, y, None),
        (x, x, torch.full((5, 5), -torch.inf).triu(1)),
        (x, x, torch.randn(2 * 4, 5, 5)),
    ]:
        expected = packed(query, key, key, need_weights=False, attn_mask=mask)[0]
        assert torch.allclose(split(query, key, key, need_weights=False, attn_mask=mask)[0], expected, atol=1e-6)
