"""CLIP, SigLIP and fixed-resolution SigLIP 2 checkpoints of transformers, which is imported at the first use only."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from steadyclip.core.errors import ModelError
from steadyclip.core.progress import warn
from steadyclip.data.prompts import as_trained
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.preprocess import Preprocess, read_json
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

    Texts are read as in the training of the weights, whatever the tokenizer's files say about padding and masks. CLIP
    reads left to right and pools at the end-of-text token, so that padding on the right cannot matter: texts are padded
    to the longest of the batch. SigLIP pools at the last position: texts are padded to full length, in lower case, and
    for the first SigLIP without punctuation. Neither gets an attention mask.
    """

    image_parts = ("vision_model", "visual_projection")

    def __init__(self, family: str, tokenizer: Any, context: int, image_settings: dict[str, Any]) -> None:
        self.family = family
        self.tokenizer = tokenizer
        self.pad = getattr(tokenizer, "pad_token_id", None)  # asked once: a compiler cannot look into a tokenizer
        self.context = context
        self.image_settings = image_settings

    def tokenize(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        encoded = self.tokenizer(
            [as_trained(text, self.family) for text in texts],
            padding="longest" if self.family == "clip" else "max_length",
            padding_side="right",
            truncation=True,
            max_length=context or self.context,
            return_attention_mask=False,
            return_tensors="pt",
        )
        return {"input_ids": encoded["input_ids"]}

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
            ends_BL = (ids_BL == network.text_model.config.eos_token_id).int()
            return Layout.of_text(ids_BL, ends_BL.argmax(dim=1), pad=None, causal=True)
        last_B = torch.full_like(ids_BL[:, 0], ids_BL.shape[1] - 1)
        return Layout.of_text(ids_BL, last_B, pad=self.pad, causal=False)

    def save(self, network: Any, folder: Path) -> None:
        with quiet():
            network.save_pretrained(folder)
        self.save_settings(network, folder)

    def save_settings(self, network: Any, folder: Path) -> None:
        with quiet():
            network.config.save_pretrained(folder)
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
    require_safetensors(folder)
    network = _network(folder, "CLIPModel" if kind == "clip" else "SiglipModel")
    context = network.config.text_config.max_position_embeddings
    tokenizer = _tokenizer(folder, context, ["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"])
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
    backend = HuggingFace(family, tokenizer, context, image_settings)
    _check_tokens(folder, network, backend)
    return DualEncoder(name, network, backend, preprocess)


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says. Raises ``ModelError`` where it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: config.json is missing, so this is not a model directory.")
    return read_json(path)


def require_safetensors(folder: Path) -> None:
    """Raises ``ModelError`` where the weights in ``folder`` are, or an index sends a reader to, anything else."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise ModelError(f"{index}: weight_map must name a file for each tensor.")
        for file in files.values():
            if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
                raise ModelError(f"{index} names {file!r}: only *.safetensors files beside it are read.")
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
        network_class = getattr(import_transformers(), kind)
        config = network_class.config_class.from_pretrained(folder, local_files_only=True)
        _check_sizes(folder, network_class, config)
        network, info = network_class.from_pretrained(
            folder,
            config=config,
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


def _check_sizes(folder: Path, network_class: Any, config: Any) -> None:
    """Raises ``ModelError`` where the weights have other sizes than ``config``, which may be any number: before memory
    is taken for them."""
    shapes: dict[str, list[int]] = {}
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    for part in ("vision", "text"):
        layers = {int(found[1]) for name in shapes if (found := re.match(rf"{part}_model\..*?layers\.(\d+)\.", name))}
        asked = getattr(config, f"{part}_config").num_hidden_layers
        if asked != len(layers):
            raise ModelError(f"{folder}: config.json says {asked} {part} layers, and the weights have {len(layers)}.")
    with torch.device("meta"):
        network = network_class(config)
    for name, tensor in network.state_dict().items():
        if list(tensor.shape) != shapes.get(name, list(tensor.shape)):
            raise ModelError(f"{folder}: config.json makes {name} {list(tensor.shape)}, the weights {shapes[name]}.")


def _tokenizer(folder: Path, context: int, inputs: list[str]) -> Any:
    """The tokenizer, which will be saved as it is used here: padded on the right, up to ``context`` tokens."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder}: tokenizer.json is missing; copy the tokenizer files from the checkpoint's source.")
    with reading(f"{folder}: the tokenizer cannot be read"):
        try:
            tokenizer = import_transformers().AutoTokenizer.from_pretrained(
                folder, local_files_only=True, model_max_length=context, padding_side="right", model_input_names=inputs
            )
        except ImportError as error:  # SigLIP's own tokenizer
            raise ImportError(f"pip install sentencepiece protobuf: {one_line(error)}") from error
    path = folder / "tokenizer_config.json"
    says = read_json(path) if path.is_file() else {}
    length = says.get("model_max_length", context)
    if isinstance(length, int | float) and length < context:
        warn(f"{path} says model_max_length {length}; texts of up to {context} tokens are read, as the weights can")
    if (side := says.get("padding_side", "right")) != "right":
        warn(f"{path} says padding_side {side!r}; texts are padded on the right, as in training")
    return tokenizer


def _check_tokens(folder: Path, network: Any, backend: HuggingFace) -> None:
    """See that the text tower can read what the tokenizer gives, and that CLIP finds the end of its texts.

    Raises:
        ModelError: tokens are missing, or have ids that the weights do not know.
    """
    tokenizer, config = backend.tokenizer, network.text_model.config
    if tokenizer.pad_token_id is None and backend.family == "clip":
        tokenizer.pad_token = tokenizer.eos_token  # nothing after the end of a text is looked at
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no pad_token; copy its files from the checkpoint's source.")
    for token, id_ in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        if id_ >= config.vocab_size:
            raise ModelError(f"{folder}: token {token!r} has the id {id_}, and the weights have {config.vocab_size}.")
    if backend.family != "clip":
        return
    ids_a, ids_b = (backend.tokenize([text])["input_ids"][0].tolist() for text in ("a", "b"))
    if ids_a[0] != ids_b[0] or ids_a[-1] != ids_b[-1] or len(ids_a) < 3:
        raise ModelError(f"{folder}: the tokenizer puts no start and end tokens around a text ({ids_a} for 'a').")
    # 2 is how the oldest configs were written; transformers then takes the highest id, which padding may have.
    if config.eos_token_id not in (2, ids_a[-1]):
        raise ModelError(
            f"{folder}: config.json says eos_token_id {config.eos_token_id}, but the tokenizer ends texts with "
            f"{ids_a[-1]}."
        )
    network.text_model.eos_token_id = config.eos_token_id = ids_a[-1]


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
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{what} ({one_line(error)}).") from error


def one_line(error: Exception, most: int = 300) -> str:
    """What another library says, without its line ends."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".") if len(text) <= most else f"{text[:most]}..."
