"""Models of open_clip (extra ``open-clip``), imported at the first use only.

open_clip packs q, k and v into one matrix. Adapters want them apart, so each attention is replaced at load by one with
separate linears that computes the same, and packed again when saved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from steadyclip.core.errors import ModelError, nearest
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.huggingface import import_transformers, one_line, reading
from steadyclip.models.preprocess import Preprocess
from steadyclip.models.towers import Backend, Block, Layout, Tokens, Tower

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
_ATTENTION = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj")
_PARTS = ("ln_1", "ln_2", "mlp", *_ATTENTION, "mlp.c_fc", "mlp.c_proj")


def import_open_clip() -> ModuleType:
    """``open_clip``.

    Raises:
        ModelError: it is not installed, or its torchvision does not fit torch.
    """
    try:
        import_transformers()
        import open_clip  # pyright: ignore[reportMissingImports]
    except Exception as error:  # a broken torchvision raises RuntimeError or OSError
        raise ModelError(
            f"open_clip cannot be imported ({one_line(error)}): pip install 'steadyclip[open-clip]', "
            "with a torchvision built for this torch."
        ) from error
    return open_clip


class SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` (batch first) with q, k, v and out as four linears; the same call, no weights returned.

    Args:
        packed: what it replaces; its weights are copied.
    """

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = packed.num_heads
        width = packed.embed_dim
        linears = (nn.utils.skip_init(nn.Linear, width, width) for _ in range(4))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linears
        self.out_proj.load_state_dict(packed.out_proj.state_dict())
        weights, biases = packed.in_proj_weight.chunk(3), packed.in_proj_bias.chunk(3)
        for linear, weight, bias in zip((self.q_proj, self.k_proj, self.v_proj), weights, biases, strict=True):
            linear.load_state_dict({"weight": weight, "bias": bias})

    def forward(
        self,
        query_BND: Tensor,
        key_BMD: Tensor,
        value_BMD: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        q, k, v = (
            linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear, x in ((self.q_proj, query_BND), (self.k_proj, key_BMD), (self.v_proj, value_BMD))
        )
        if attn_mask is not None:
            attn_mask = attn_mask.to(q.dtype)
            if attn_mask.ndim == 3:  # one mask per text and head
                attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class OpenClip(Backend):
    """Calls an open_clip ``CLIP`` or ``CustomTextCLIP`` whose towers are open_clip's own transformers."""

    family = "open_clip"
    image_parts = ("visual",)

    def __init__(self, tokenizer: Any, config: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def tokenize(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        return {"input_ids": self.tokenizer(list(texts), context_length=context)}

    def image(self, network: Any, images_BCHW: Tensor, patches: bool) -> dict[str, Tensor]:
        if not patches:
            return {"feature": network.encode_image(images_BCHW)}
        visual, seen = network.visual, []
        if getattr(visual, "attn_pool", None) is not None:
            raise ModelError(f"the attention pooling of {type(visual).__name__} gives no features of patches.")
        handle = visual.transformer.register_forward_hook(lambda _, __, tokens_BNE: seen.append(tokens_BNE))
        try:
            image_BD = network.encode_image(images_BCHW)
        finally:
            handle.remove()
        patch_BND = visual.ln_post(seen[0][:, 1:])  # each patch token takes the way of the class token
        if visual.proj is not None:
            patch_BND = patch_BND @ visual.proj
        return {"feature": image_BD, "patches": patch_BND.unflatten(1, visual.grid_size)}

    def text(self, network: Any, tokens: Tokens) -> Tensor:
        return network.encode_text(tokens["input_ids"])

    def embed_dim(self, network: Any) -> int:
        return network.visual.output_dim

    def towers(self, network: Any) -> tuple[Tower, Tower]:
        def of(name: Any, model: Any, *others: Any) -> Tower:
            layers = enumerate(model.transformer.resblocks)
            blocks = [Block.find(index, layer.attn.num_heads, layer, _PARTS) for index, layer in layers]
            return Tower(name, blocks, model.transformer.width, *others)

        visual, text = network.visual, _text_model(network)
        a, b = self.tokenize(["a", "b"])["input_ids"]
        start = int((a != b).int().argmax())  # some tokenizers put a start token before the words
        # Dropping patches, which does nothing by default, is the last step before the first norm.
        image = of("image", visual, visual.patch_dropout, visual.ln_post, len(visual.positional_embedding))
        image.summary = visual.pool_type == "tok"
        return image, of("text", text, text.token_embedding, text.ln_final, self.tokenizer.context_length, start)

    def text_layout(self, network: Any, tokens: Tokens) -> Layout:
        ids_BL, text = tokens["input_ids"], _text_model(network)
        pool = network.text_pool_type if text is network else text.pool_type
        if pool in ("argmax", "eos"):
            ends_BL = ids_BL if pool == "argmax" else (ids_BL == text.eos_id).int()
            summary_B, pad = ends_BL.argmax(dim=1), None
        else:
            at = {"first": 0, "last": ids_BL.shape[1] - 1}[pool]
            summary_B, pad = torch.full_like(ids_BL[:, 0], at), getattr(text, "pad_id", 0)
        return Layout.of_text(ids_BL, summary_B, pad, causal=text.attn_mask is not None)

    def save(self, network: Any, folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in _packed(network).items()}, folder / WEIGHTS)
        self.save_settings(network, folder)

    def save_settings(self, network: Any, folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n")
        if hasattr(self.tokenizer, "save_pretrained"):  # open_clip's own tokenizer is part of open_clip
            self.tokenizer.save_pretrained(folder)


def read(name: str, folder: Path | None = None) -> DualEncoder:
    """The open_clip model ``"open_clip:MODEL/PRETRAINED"``, or the one saved in ``folder``.

    Raises:
        ModelError: open_clip, the model or its weights are missing, or its architecture is not supported.
    """
    open_clip = import_open_clip()
    if folder is None:
        architecture, _, tag = name.removeprefix("open_clip:").partition("/")
        _check_tag(open_clip, architecture, tag)
        source, options = architecture, {"pretrained": tag}
    else:
        if not (folder / WEIGHTS).is_file():
            raise ModelError(f"{folder}: {WEIGHTS} is missing (pickles are not read).")
        source, options = f"local-dir:{folder}", {}
    # It draws random weights before it reads the real ones.
    with reading(f"{name}: open_clip cannot load it"), torch.random.fork_rng(devices=[]):
        network = open_clip.create_model(source, precision="fp32", require_pretrained=True, **options)
        tokenizer = open_clip.get_tokenizer(source)
    model_config = open_clip.get_model_config(source)
    pixels = open_clip.get_model_preprocess_cfg(network)
    _split_attention(name, network)
    # A tag may switch the activation of its architecture (OpenAI's weights do): the saved config must say so.
    model_config["quick_gelu"] = type(network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    kept = {key: pixels[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in pixels}
    backend = OpenClip(tokenizer, {"model_cfg": model_config, "preprocess_cfg": kept})
    return DualEncoder(name, network, backend, _preprocess(name, pixels))


def write_random(folder: Path, model_config: dict[str, Any], prepare: Any) -> None:
    """Write a checkpoint with random weights of an architecture; ``prepare(network)`` may still change them."""
    open_clip = import_open_clip()
    network = open_clip.CLIP(**model_config)
    prepare(network)
    config = {"model_cfg": model_config, "preprocess_cfg": {"mean": (0.5,) * 3, "std": (0.25,) * 3}}
    OpenClip(None, config).save(network, folder)


def _check_tag(open_clip: ModuleType, architecture: str, tag: str) -> None:
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(f"open_clip has no model {architecture!r}.{nearest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        what = f"no weights {tag!r} for {architecture!r}" if tag else f"no weights are named for {architecture!r}"
        raise ModelError(f"{what}: write open_clip:{architecture}/TAG with one of {', '.join(tags) or 'none'}.")


def _preprocess(name: str, pixels: dict[str, Any]) -> Preprocess:
    size = pixels["size"]
    height, width = (size, size) if isinstance(size, int) else size
    resize = pixels.get("resize_mode", "shortest")
    if resize not in ("shortest", "squash") or (resize == "shortest" and height != width):
        raise ModelError(f"{name}: resize mode {resize!r} to {height} x {width} pixels is not supported.")
    return Preprocess(
        size=(height, width),
        resize=resize,
        resize_to=(height, width),
        crop=resize == "shortest",
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        interpolation="bilinear" if pixels.get("interpolation") == "bilinear" else "bicubic",
        crop_rounding="even",
    ).checked(name)


def _text_model(network: Any) -> Any:
    return getattr(network, "text", network)  # CustomTextCLIP has a text module, CLIP is its own


def _split_attention(name: str, network: Any) -> None:
    for tower in (network.visual, _text_model(network)):
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        if blocks is None:
            raise ModelError(
                f"{name}: the tower {type(tower).__name__} is not one of open_clip's own transformers, and not "
                "supported; where the model exists for transformers, load that."
            )
        for block in blocks:
            packed = block.attn
            if not isinstance(packed, nn.MultiheadAttention) or not packed.batch_first or packed.in_proj_bias is None:
                raise ModelError(f"{name}: unknown attention {type(packed).__name__} in {type(block).__name__}.")
            block.attn = SplitAttention(packed)


def _packed(network: nn.Module) -> dict[str, Tensor]:
    """The state dict under open_clip's names."""
    state = network.state_dict()
    for prefix in (name for name, module in network.named_modules() if isinstance(module, SplitAttention)):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{prefix}.{part}_proj.{kind}") for part in "qkv"]
            state[f"{prefix}.in_proj_{kind}"] = torch.cat(parts)
    return state
