"""Captioning models of transformers: BLIP, BLIP-2 and Florence-2, in their own classes."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steadyclip.anchors.captions import Captioner, ManifestCaptioner, TemplateCaptioner
from steadyclip.core.errors import ModelError
from steadyclip.core.precision import Precision
from steadyclip.models.huggingface import import_transformers, quiet, read_config, reading
from steadyclip.models.loading import checkpoint_folder

if TYPE_CHECKING:
    from PIL import Image

    from steadyclip.data import ImageSet

# model_type in config.json -> class, and what it is asked if nothing else is said
_KINDS = {
    "blip": ("BlipForConditionalGeneration", ""),
    "blip-2": ("Blip2ForConditionalGeneration", ""),
    "florence2": ("Florence2ForConditionalGeneration", "<CAPTION>"),
}


class ModelCaptioner:
    """A captioning model; greedy or beam search, so that the same image always gets the same caption."""

    def __init__(
        self,
        name: str,
        *,
        prompt: str | None = None,
        beams: int = 3,
        max_tokens: int = 40,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        """Load it.

        Args:
            name: local directory or hub id of a BLIP, BLIP-2 or Florence-2, such as
                "Salesforce/blip-image-captioning-base".
            prompt: how the caption begins, or Florence-2's task; by default nothing, and "<CAPTION>".
            beams: 1 is greedy.
            max_tokens: the longest caption.
            device: where the weights go.
            precision: of the weights.

        Raises:
            ModelError: no such model, of another kind, or unreadable.
        """
        folder = checkpoint_folder(name)
        kind = read_config(folder).get("model_type")
        if kind not in _KINDS:
            raise ModelError(f"{folder}: config.json says model_type {kind!r}; captioners are {', '.join(_KINDS)}.")
        transformers = import_transformers()
        class_name, default = _KINDS[kind]
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with reading(f"{folder}: the captioner cannot be read"):
            network = getattr(transformers, class_name).from_pretrained(
                folder, dtype=self.dtype, use_safetensors=True, local_files_only=True
            )
            self.processor: Any = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.network: Any = network.to(device).eval()
        self.name = name
        self.prompt = default if prompt is None else prompt
        self.decoding = {
            "weights": _weights_hash(folder), "prompt": self.prompt, "num_beams": beams, "max_new_tokens": max_tokens,
            "precision": precision,
        }  # fmt: skip

    def __call__(self, pictures: Sequence[Image.Image], images: ImageSet) -> list[str]:
        text = {"text": [self.prompt] * len(pictures), "padding": True} if self.prompt else {}
        with quiet(), torch.inference_mode():
            inputs = self.processor(images=list(pictures), return_tensors="pt", **text).to(self.network.device)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
            tokens = self.network.generate(
                **inputs,
                num_beams=self.decoding["num_beams"],
                max_new_tokens=self.decoding["max_new_tokens"],
                do_sample=False,
            )
            return self.processor.batch_decode(tokens, skip_special_tokens=True)


def load_captioner(name: str, **options: Any) -> Captioner:
    """``template``, ``manifest``, or a model with the ``options`` of ``ModelCaptioner``.

    Raises:
        ModelError: no such captioner.
    """
    own = {captioner.name: captioner for captioner in (TemplateCaptioner(), ManifestCaptioner())}
    return own.get(name) or ModelCaptioner(name, **options)


def _weights_hash(folder: Path) -> str:
    """16 hex digits over the weight files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            digest.update(content)
    return digest.hexdigest()[:16]
