"""Exports for open_clip: names, shapes and settings without it; its own answers where it is installed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steadyclip.core.errors import ModelError
from steadyclip.deploy import export, openclip_target
from steadyclip.models import load
from steadyclip.models.testing import installed_families, tiny

BLOCK = {
    "ln_1.weight": (32,), "ln_1.bias": (32,), "ln_2.weight": (32,), "ln_2.bias": (32,), "attn.in_proj_weight": (96, 32),
    "attn.in_proj_bias": (96,), "attn.out_proj.weight": (32, 32), "attn.out_proj.bias": (32,),
    "mlp.c_fc.weight": (64, 32), "mlp.c_fc.bias": (64,), "mlp.c_proj.weight": (32, 64), "mlp.c_proj.bias": (32,),
}  # fmt: skip
TOP = {
    "positional_embedding": (32, 32), "token_embedding.weight": (514, 32), "ln_final.weight": (32,),
    "ln_final.bias": (32,), "text_projection": (32, 24), "logit_scale": (), "visual.class_embedding": (32,),
    "visual.positional_embedding": (17, 32), "visual.conv1.weight": (32, 3, 8, 8), "visual.ln_pre.weight": (32,),
    "visual.ln_pre.bias": (32,), "visual.ln_post.weight": (32,), "visual.ln_post.bias": (32,), "visual.proj": (32, 24),
}  # fmt: skip
"""What ``open_clip.create_model(...).state_dict()`` of open_clip 3.3.0 has for a model of this size."""


def test_names_shapes_and_settings(run_of, tmp_path: Path) -> None:
    said: list[str] = []
    info = export(run_of(), "open_clip", tmp_path / "export", check=4, say=said.append)
    tensors = load_file(tmp_path / "export" / "open_clip_model.safetensors")
    blocks = {
        f"{start}transformer.resblocks.{number}.{name}": shape
        for start in ("", "visual.") for number in range(2) for name, shape in BLOCK.items()
    }  # fmt: skip
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {**TOP, **blocks}
    config = json.loads((tmp_path / "export" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    assert "pool_type" not in config["model_cfg"]["text_cfg"]  # the end of a text has the highest id
    assert config["preprocess_cfg"]["size"] == 32
    assert not (tmp_path / "export" / "config.json").exists()
    if "open_clip" not in installed_families():
        assert info.checks["open_clip"] == {"checked": False}
        assert said[-1].startswith("not checked, as open_clip is not here to read it")


@torch.no_grad()
def test_the_packed_attention_and_the_projections_compute_the_same() -> None:
    model = tiny("clip")
    network, state = model.network, openclip_target.renamed(model.network.state_dict())
    attention = torch.nn.MultiheadAttention(32, 2, batch_first=True)
    start = "visual.transformer.resblocks.1.attn."
    attention.load_state_dict({n.removeprefix(start): t for n, t in state.items() if n.startswith(start)})
    x_BND = torch.randn(2, 5, 32)
    want, _ = network.vision_model.encoder.layers[1].self_attn(x_BND)
    assert torch.allclose(attention(x_BND, x_BND, x_BND, need_weights=False)[0], want, atol=1e-6)
    assert torch.allclose(x_BND @ state["visual.proj"], network.visual_projection(x_BND), atol=1e-6)
    assert torch.allclose(x_BND @ state["text_projection"], network.text_projection(x_BND), atol=1e-6)


def test_the_end_of_a_text_is_named_where_its_id_is_not_the_highest() -> None:
    model = tiny("clip")
    model.network.config.text_config.eos_token_id = 7
    config = openclip_target.config_of(model)["model_cfg"]["text_cfg"]
    assert (config["pool_type"], config["eos_id"]) == ("eos", 7)


def test_what_open_clip_cannot_hold(run_of, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a siglip model.*take --to hf or --to onnx"):
        export(run_of("zero-shot", "siglip"), "open_clip", tmp_path / "a", check=2)
    with pytest.raises(ModelError, match="--to open_clip cannot hold bottleneck"):
        export(run_of("bottleneck[steps=1]"), "open_clip", tmp_path / "b", check=2)
    model = tiny("clip")
    model.network.config.text_config.hidden_act = "gelu"
    with pytest.raises(ModelError, match="one activation, gelu or quick_gelu, for both towers"):
        openclip_target.config_of(model)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("open_clip" not in installed_families(), reason="open_clip is not installed")
def test_open_clip_and_this_library_read_it_back(run_of, data, tmp_path: Path) -> None:
    info = export(run_of(), "open_clip", tmp_path / "export", data=data, check=8)
    assert info.checks["open_clip"]["equal_first_names"] == 8
    assert info.checks["open_clip, texts"]["smallest_cosine"] > 0.99999
    assert load(tmp_path / "export").family == "open_clip"
