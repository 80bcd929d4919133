"""Who writes captions: BLIP, BLIP-2 and Florence-2 in transformers' own classes, and two that need no model."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steadyclip.core.errors import ModelError
from steadyclip.core.precision import Precision
from steadyclip.models.huggingface import import_transformers, quiet, read_config, reading, require_safetensors
from steadyclip.models.loading import checkpoint_folder

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.data import ImageSet

# model_type in config.json -> class, and the prompt if none is given
_KINDS = {
    "blip": ("BlipForConditionalGeneration", ""),
    "blip-2": ("Blip2ForConditionalGeneration", ""),
    "florence2": ("Florence2ForConditionalGeneration", "<CAPTION>"),
}


@dataclass(frozen=True)
class Captioner:
    """Writes one caption for each of some decoded images, which are those of an image set.

    ``name`` and ``decoding`` (JSON values) go into the captions file: how its captions were made.
    """

    name: str
    decoding: dict[str, Any]
    write: Callable[[Sequence[Image.Image], ImageSet], list[str]]


def load_captioner(
    name: str,
    *,
    prompt: str | None = None,
    beams: int = 3,
    max_tokens: int = 40,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
) -> Captioner:
    """A captioner by name. Models use greedy or beam search, so that the same image always gets the same caption.

    Args:
        name: ``template``, class prompts as a control; ``manifest``, the data set's own captions; or a local directory
            or hub id of a BLIP, BLIP-2 or Florence-2. The other arguments are for models.
        prompt: how captions begin, or Florence-2's task; by default nothing, and "<CAPTION>".
        beams: 1 is greedy.
        max_tokens: the longest caption.
        device: where the weights go.
        precision: of the weights.

    Raises:
        ModelError: no such model, of another kind, or unreadable.
    """
    if name == "template":
        return Captioner(name, {}, _prompts)
    if name == "manifest":
        return Captioner(name, {}, lambda _, images: [caption or "" for caption in images.captions])
    folder = checkpoint_folder(name)
    kind = read_config(folder).get("model_type")
    if kind not in _KINDS:
        raise ModelError(f"{folder}: config.json says model_type {kind!r}; captioners are {', '.join(_KINDS)}.")
    require_safetensors(folder)
    transformers: Any = import_transformers()
    class_name, default = _KINDS[kind]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with reading(f"{folder}: the captioner cannot be read"):
        network = getattr(transformers, class_name).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    network.to(device).eval()
    prompt = default if prompt is None else prompt
    search = {"num_beams": beams, "max_new_tokens": max_tokens}

    def write(pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
        text = {"text": [prompt] * len(pictures), "padding": True} if prompt else {}
        with quiet(), torch.inference_mode():
            inputs = processor(images=list(pictures), return_tensors="pt", **text).to(network.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            tokens = network.generate(**inputs, **search, do_sample=False)
            return processor.batch_decode(tokens, skip_special_tokens=True)

    decoding = {"weights": _weights_hash(folder), "prompt": prompt, **search, "precision": precision}
    return Captioner(name, decoding, write)


def _prompts(pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
    """The class name in one of the set's templates, chosen by the key; no image is looked at."""
    captions = []
    for key, label in zip(images.keys, images.labels, strict=True):
        chosen = int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(images.templates)
        captions.append(images.templates[chosen].replace("{}", images.classes[label]))
    return captions


def _weights_hash(folder: Path) -> str:
    """16 hex digits over the weight files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            digest.update(content)
    return digest.hexdigest()[:16]
