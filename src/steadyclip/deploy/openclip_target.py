"""Exports for open_clip: CLIP under open_clip's names, with the classifier in two files beside it.

transformers converts towards itself only, and open_clip does not read it, so the names are mapped here.

Shapes: B images, M texts, D feature width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from steadyclip.core.errors import ModelError
from steadyclip.deploy.checking import (
    EXACT,
    HALF,
    Reference,
    by_parts,
    compare,
    compare_features,
    need,
    need_texts,
    spelled,
)
from steadyclip.deploy.engine import TorchEngine
from steadyclip.deploy.export import Job
from steadyclip.deploy.folding import fold, logits_of, refuse_unfoldable
from steadyclip.models import DualEncoder
from steadyclip.models.openclip import CONFIG, WEIGHTS, import_open_clip

_TOP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm": "ln_final",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # transformers spells it so
    "vision_model.post_layernorm": "visual.ln_post",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_LAYERS = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}
_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_INTERPOLATIONS = ("bicubic", "bilinear")


def check(engine: TorchEngine) -> None:
    """Raises ModelError where open_clip has no class for the model."""
    refuse_unfoldable(engine, "open_clip")
    model = engine.model
    if model.family == "open_clip":
        return
    if model.family != "clip":
        raise ModelError(
            f"{model.name} is a {model.family} model: its image tower is another one in open_clip, and not supported; "
            "take --to hf or --to onnx."
        )
    _activation(model)
    if model.preprocess.interpolation not in _INTERPOLATIONS:
        raise ModelError(f"open_clip does not resize by {model.preprocess.interpolation}: take --to hf or --to onnx.")


def write(job: Job) -> dict[str, Any]:
    """Write the checkpoint and the classifier, and read them back where open_clip is installed."""
    model, half = job.engine.model, job.dtype == "fp16"
    rows = fold(job.engine)
    rows.write(job.folder)
    job.write_classifier(rows.names)
    if half:
        model.network.half()
    if model.family == "open_clip":
        model.save(job.folder)
    else:
        # The tokenizer's files are those of transformers, and so is config.json, which open_clip does not look at.
        model.save_settings(job.folder)
        (job.folder / "config.json").unlink()
        (job.folder / CONFIG).write_text(json.dumps(config_of(model), indent=2) + "\n", encoding="utf-8")
        save_file(renamed(model.network.state_dict()), job.folder / WEIGHTS)
    try:
        import_open_clip()
    except ModelError as error:
        job.say(f"not checked, as open_clip is not here to read it: {error}")
        return {"open_clip": {"checked": False}}
    checks = read_back(job.folder, job.reference, half, names=rows.names == "any")
    job.say(spelled("read back by open_clip", checks["open_clip"]))
    return checks


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ``CLIPModel``'s weights under open_clip's names: q, k and v in one matrix, projections transposed."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in _TRANSPOSED:
            found[_TRANSPOSED[name]] = value.T.contiguous()
        elif (start := next((start for start in _LAYERS if name.startswith(start)), None)) is not None:
            number, part = name.removeprefix(start).split(".", 1)
            part, _, kind = part.rpartition(".")
            block = f"{_LAYERS[start]}{number}."
            if part in _BLOCK:
                found[f"{block}{_BLOCK[part]}.{kind}"] = value.contiguous()
            elif part == "self_attn.q_proj":
                packed = [state[f"{start}{number}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
                found[f"{block}attn.in_proj_{kind}"] = torch.cat(packed)
        elif name in _TOP:
            found[_TOP[name]] = value.contiguous()
        elif (module := name.rpartition(".")[0]) in _TOP:
            found[f"{_TOP[module]}.{name.rpartition('.')[2]}"] = value.contiguous()
    return found


def config_of(model: DualEncoder) -> dict[str, Any]:
    """What open_clip must know of a ``CLIPModel``."""
    config: Any = model.network.config
    vision, text, pixels = config.vision_config, config.text_config, model.preprocess
    eos, size = int(text.eos_token_id), int(pixels.size[0])
    # The end of a text is its highest id in OpenAI's vocabulary; elsewhere it must be named.
    pool = {} if eos == text.vocab_size - 1 else {"pool_type": "eos", "eos_id": eos}
    return {
        "model_cfg": {
            "embed_dim": config.projection_dim,
            "quick_gelu": _activation(model) == "quick_gelu",
            "vision_cfg": {
                "image_size": size, "patch_size": vision.patch_size, "width": vision.hidden_size,
                "layers": vision.num_hidden_layers, "head_width": vision.hidden_size // vision.num_attention_heads,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
                "norm_kwargs": {"eps": vision.layer_norm_eps},
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings, "vocab_size": text.vocab_size,
                "width": text.hidden_size, "heads": text.num_attention_heads, "layers": text.num_hidden_layers,
                "mlp_ratio": text.intermediate_size / text.hidden_size, "norm_kwargs": {"eps": text.layer_norm_eps},
                "hf_tokenizer_name": "in this folder", **pool,  # must not be empty; the folder itself is then read
            },
        },
        "preprocess_cfg": {
            "size": size, "mean": list(pixels.mean), "std": list(pixels.std), "interpolation": pixels.interpolation,
            "resize_mode": pixels.resize,
        },
    }  # fmt: skip


def _activation(model: DualEncoder) -> str:
    """The activation of both towers. Raises ModelError where they differ, or open_clip has no such one."""
    config: Any = model.network.config
    vision, text = config.vision_config.hidden_act, config.text_config.hidden_act
    if vision != text or vision not in ("gelu", "quick_gelu"):
        raise ModelError(
            f"open_clip has one activation, gelu or quick_gelu, for both towers; {model.name} has {vision} and {text}: "
            "take --to hf or --to onnx."
        )
    return vision


def read_back(folder: Path, reference: Reference, half: bool, names: bool) -> dict[str, Any]:
    """Read the folder by open_clip alone, and compare; ``names``: its text tower, too.

    Raises:
        ExportFailed: it says something else.
    """
    open_clip = import_open_clip()
    from steadyclip.models.huggingface import reading

    with reading(f"{folder.name}: open_clip cannot load it"), torch.random.fork_rng(devices=[]):
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision="fp32")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    def features(pixels_BCHW: np.ndarray) -> tuple[np.ndarray]:
        with torch.inference_mode():
            return (model.encode_image(torch.from_numpy(pixels_BCHW), normalize=True).numpy(),)

    what, tolerance = "read back by open_clip, the export differs", HALF if half else EXACT
    (unit_ND,) = by_parts(features, reference.pixels)
    found = compare(reference, unit_ND, logits_of(folder, unit_ND))
    need(what, found, tolerance)
    checks = {"open_clip": found}
    if names:
        with torch.inference_mode():
            texts_MD = model.encode_text(tokenizer(list(reference.texts)), normalize=True).numpy()
        checks["open_clip, texts"] = need_texts(what, reference, texts_MD, tolerance)
    # Its own image transform rounds the crop otherwise, which no file can say: told, not asked for.
    stock_NCHW = np.stack([preprocess(image).numpy() for image in reference.pictures.images])
    (stock_ND,) = by_parts(features, stock_NCHW)
    found["stock_transform_smallest_cosine"] = compare_features(unit_ND, stock_ND)["smallest_cosine"]
    return checks
