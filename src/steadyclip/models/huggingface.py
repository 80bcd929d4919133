"""CLIP, SigLIP and fixed-resolution SigLIP 2 checkpoints of transformers, which is imported at the first use only."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from steadyclip.core.errors import ModelError
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.preprocess import Preprocess
from steadyclip.models.towers import Backend, Block, Layout, Tokens, Tower

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_PARTS = ("layer_norm1", "layer_norm2", "mlp", *_ATTENTION, "mlp.fc1", "mlp.fc2")


def import_transformers() -> ModuleType:
    """``transformers``, also where torchvision is installed but broken: it is hidden then, as nothing here needs it.

    The project imports transformers through this function only, since transformers looks for torchvision just once.
    """
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision"):
        try:
            importlib.import_module("torchvision")
        except Exception:  # built for another torch: RuntimeError, OSError, ImportError, ...
            sys.modules["torchvision"] = None  # type: ignore[assignment]
    # Without it, data loader workers make the tokenizers library print about forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    return transformers


class HuggingFace(Backend):
    """Calls a ``CLIPModel`` or ``SiglipModel``.

    CLIP reads left to right and pools at the end-of-text token, so that padding on the right cannot matter: texts are
    padded to the longest of the batch, without a mask. SigLIP pools at the last position and was trained with padding
    to full length; it gets an attention mask only where its tokenizer makes one.
    """

    image_parts = ("vision_model", "visual_projection")

    def __init__(self, family: str, tokenizer: Any, context: int, image_settings: dict[str, Any]) -> None:
        self.family = family
        self.tokenizer = tokenizer
        self.pad = getattr(tokenizer, "pad_token_id", None)  # asked once: a compiler cannot look into a tokenizer
        self.context = context
        self.image_settings = image_settings

    def tokenize(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        clip = self.family == "clip"
        if self.family == "siglip2":  # trained on lower-cased text; not every saved tokenizer does it itself
            texts = [text.lower() for text in texts]
        encoded = self.tokenizer(
            list(texts),
            padding="longest" if clip else "max_length",
            padding_side="right" if clip else None,
            truncation=True,
            max_length=context or self.context,
            return_attention_mask=False if clip else None,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}

    def image(self, network: Any, images_BCHW: Tensor, patches: bool) -> dict[str, Tensor]:
        vision, clip = network.vision_model, self.family == "clip"
        output = vision(pixel_values=images_BCHW)
        found = {"feature": network.visual_projection(output.pooler_output) if clip else output.pooler_output}
        if patches:
            if clip:  # each patch token takes the way of the class token
                patch_BND = network.visual_projection(vision.post_layernorm(output.last_hidden_state[:, 1:]))
            else:  # the pooling head is asked what an image of this one token would be
                patch_BND = vision.head(output.last_hidden_state.flatten(0, 1).unsqueeze(1))
            Y, X = (side // vision.config.patch_size for side in images_BCHW.shape[-2:])
            found["patches"] = patch_BND.reshape(len(images_BCHW), Y, X, -1)
        return found

    def text(self, network: Any, tokens: Tokens) -> Tensor:
        pooled_ME = network.text_model(**tokens).pooler_output
        return network.text_projection(pooled_ME) if self.family == "clip" else pooled_ME

    def embed_dim(self, network: Any) -> int:
        last = network.text_projection if self.family == "clip" else network.text_model.head
        return last.out_features

    def towers(self, network: Any) -> tuple[Tower, Tower]:
        def blocks(model: Any) -> list[Block]:
            heads = model.config.num_attention_heads
            return [Block.find(index, heads, layer, _PARTS) for index, layer in enumerate(model.encoder.layers)]

        vision, text = network.vision_model, network.text_model
        clip, embed, norm = self.family == "clip", text.embeddings.token_embedding, text.final_layer_norm
        image = Tower("image", blocks(vision), vision.config.hidden_size, vision.embeddings, vision.post_layernorm)
        image.context = vision.embeddings.num_positions
        image.summary = clip  # SigLIP pools by an attention head
        start = int(clip)  # CLIP's texts have a start token
        return image, Tower("text", blocks(text), text.config.hidden_size, embed, norm, self.context, start)

    def text_layout(self, network: Any, tokens: Tokens) -> Layout:
        ids_BL = tokens["input_ids"]
        if self.family == "clip":
            end = network.text_model.config.eos_token_id
            ends_BL = ids_BL if end == 2 else (ids_BL == end).int()  # 2: see _check_end_of_text
            return Layout.of_text(ids_BL, ends_BL.argmax(dim=1), pad=None, causal=True)
        last_B = torch.full_like(ids_BL[:, 0], ids_BL.shape[1] - 1)
        return Layout.of_text(ids_BL, last_B, pad=self.pad, causal=False)

    def save(self, network: Any, folder: Path) -> None:
        with quiet():
            network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(self.image_settings, indent=2) + "\n")


def read(name: str, folder: Path) -> DualEncoder:
    """The checkpoint in ``folder``, weights in float32 whatever they are on disk.

    Raises:
        ModelError: a file is missing or unreadable, or the checkpoint is of a kind that is not supported.
    """
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == "siglip2" and "SiglipModel" not in config.get("architectures", []):
        raise ModelError(
            f"{folder}: a SigLIP 2 NaFlex checkpoint (images of many shapes) is not supported; "
            "take a fixed-resolution one, such as google/siglip2-base-patch16-224."
        )
    if kind not in ("clip", "siglip", "siglip2"):
        raise ModelError(f"{folder}: config.json says model_type {kind!r}; clip, siglip and siglip2 are supported.")
    _require_safetensors(folder)
    network = _network(folder, "CLIPModel" if kind == "clip" else "SiglipModel")
    tokenizer = _tokenizer(folder)
    # SigLIP 2 differs from SigLIP by its tokenizer only: Gemma's, on lower-cased text.
    gemma = any(word in type(tokenizer).__name__ for word in ("Gemma", "Siglip2"))
    family = "siglip2" if kind != "clip" and gemma else kind
    preprocess, image_settings = Preprocess.read(folder, family)
    expected = network.config.vision_config.image_size
    if preprocess.size != (expected, expected):
        height, width = preprocess.size
        raise ModelError(
            f"{folder}: preprocessor_config.json makes images of {height} x {width} pixels, "
            f"but the weights of config.json want {expected} x {expected}."
        )
    context = min(network.config.text_config.max_position_embeddings, tokenizer.model_max_length)
    backend = HuggingFace(family, tokenizer, context, image_settings)
    if family == "clip":
        _check_end_of_text(folder, network, backend)
    return DualEncoder(name, network, backend, preprocess)


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says. Raises ``ModelError`` where it is missing or no JSON."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: config.json is missing, so this is not a model directory.")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}).") from None


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("model*.safetensors")):
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            raise ModelError(
                f"{path}: a pickle can run code when it is read, so only model.safetensors is; "
                "convert it where you trust it (transformers: save_pretrained)."
            )
    raise ModelError(f"{folder}: model.safetensors is missing.")


def _network(folder: Path, kind: str) -> Any:
    with reading(f"{folder}: the weights cannot be read"):
        network, info = getattr(import_transformers(), kind).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )
    wrong = sorted(map(str, info["missing_keys"])) or sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise ModelError(f"{folder}: model.safetensors does not fit config.json: {wrong[0]} is missing or misshapen.")
    return network


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder}: tokenizer.json is missing; copy the tokenizer files from the checkpoint's source.")
    with reading(f"{folder}: the tokenizer cannot be read"):
        try:
            return import_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except ImportError as error:  # SigLIP's own tokenizer
            raise ImportError(f"pip install sentencepiece protobuf: {first_line(error)}") from error


def _check_end_of_text(folder: Path, network: Any, backend: HuggingFace) -> None:
    """CLIP pools at the first end-of-text token. Were it never found, all texts would silently get one feature."""
    end = network.text_model.config.eos_token_id
    ids = backend.tokenize(["a"])["input_ids"]
    # eos_token_id 2 is how the oldest configs were written; transformers then takes the highest id, which CLIP's is.
    if end != 2 and not (ids == end).any():
        raise ModelError(
            f"{folder}: config.json says eos_token_id {end}, but the tokenizer ends texts with {int(ids[0, -1])}."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines, progress bars or warnings of transformers; what is wrong is raised instead."""
    import_transformers()
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """``quiet``, and whatever a library raises (errors of many kinds) becomes one line that begins with ``what``."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise ModelError(f"{what} ({first_line(error)}).") from error


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
