"""Tiny models with random weights, one of each family, for tests: no download, built in a fraction of a second."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadyclip.core.errors import ModelError
from steadyclip.models import openclip
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.huggingface import import_transformers, quiet
from steadyclip.models.loading import load

FAMILIES = ("clip", "siglip", "siglip2", "open_clip")

# 32-pixel images in 16 patches, 2 blocks of width 32 with 2 heads
_VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
_DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 2}
_OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2.0},
}


def installed_families() -> tuple[str, ...]:
    """The families that ``tiny`` can build here: open_clip may be missing, or its torchvision broken."""
    try:
        openclip.import_open_clip()
    except ModelError:
        return FAMILIES[:-1]
    return FAMILIES


def tiny(family: str, seed: int = 0) -> DualEncoder:
    """A tiny model of ``family`` with random weights that depend on ``seed`` only.

    Args:
        family: "clip", "siglip", "siglip2", or "open_clip" (extra ``open-clip``).
        seed: of the weights.

    Raises:
        ModelError: unknown family, or open_clip is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(family, Path(folder), seed)
        model = load(folder)
    model.name = f"tiny-{family}"
    return model


def write_tiny(family: str, folder: Path, seed: int = 0) -> None:
    """Write the checkpoint of ``tiny(family, seed)`` into an existing directory."""
    if family == "open_clip":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            openclip.write_random(folder, _OPEN_CLIP, _disturb)
        return
    if family not in FAMILIES:
        raise ModelError(f"no tiny model of family {family!r}; there are {', '.join(FAMILIES)}.")
    with quiet():
        _write_transformers(family, folder, seed)


def _write_transformers(family: str, folder: Path, seed: int) -> None:
    transformers = import_transformers()
    tokenizer = _clip_tokenizer() if family == "clip" else _siglip_tokenizer(family)
    text = {**_TEXT, **_DEPTH, "vocab_size": len(tokenizer)}
    vision = {**_VISION, **_DEPTH}
    if family == "clip":
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = transformers.CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=24)
        kind, image = transformers.CLIPModel, {"size": {"shortest_edge": 32}, "crop_size": 32}
    else:
        config = transformers.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)
        kind, image = transformers.SiglipModel, {"size": {"height": 32, "width": 32}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(config)
        _disturb(network)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image = {"image_processor_type": f"{'CLIP' if family == 'clip' else 'Siglip'}ImageProcessor", **image}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))


def _disturb(network: nn.Module) -> None:
    """Biases and gains away from 0 and 1, so that a forgotten one shows; the scale and bias of a trained model."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name == "logit_scale":
                value.fill_(3.0)
            elif name == "logit_bias":
                value.fill_(-5.0)
            elif value.ndim <= 1 or "norm" in name:
                value.add_(0.1 * torch.randn_like(value))


def _clip_tokenizer() -> Any:
    """CLIP's own tokenizer over single bytes, without merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return import_transformers().CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=32
    )


def _siglip_tokenizer(family: str) -> Any:
    """Single letters. SigLIP's own class needs sentencepiece, so this is a plain one; SigLIP 2's is its own."""
    import string

    letters = string.ascii_letters + string.digits + string.punctuation + "▁"
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters]
    vocabulary = {word: index for index, word in enumerate(words)}
    transformers = import_transformers()
    if family == "siglip2":
        return transformers.Siglip2Tokenizer(vocab=vocabulary, merges=[], model_max_length=32, padding_side="right")
    from tokenizers import Tokenizer, models, normalizers, processors

    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=32,
        model_input_names=["input_ids"],
    )
