"""The one view over every CLIP-like model.

Shapes: B images, M texts, C classes, D feature width, L tokens of a text, C H W pixels, Y X grid of patches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.core.errors import ModelError
from steadyclip.models.adapter import Adapter
from steadyclip.models.backend import Backend, Tokens
from steadyclip.models.preprocess import Preprocess


class DualEncoder(nn.Module):
    """An image tower and a text tower with one feature space, and what is bound to their weights.

    ``network`` is the stock model, untouched; ``adapters`` holds everything added to it. A fresh model is in evaluation
    mode and trains nothing: a method decides what gets ``requires_grad``.

    Args:
        name: what it was loaded by.
        network: the stock model.
        backend: how to call it.
        preprocess: the image transform of its weights.
    """

    def __init__(self, name: str, network: nn.Module, backend: Backend, preprocess: Preprocess) -> None:
        super().__init__()
        self.name = name
        self.network = network.requires_grad_(False).eval()
        self.adapters = nn.ModuleDict()
        self.head: nn.Module | None = None
        self.preprocess = preprocess
        self.image_tower, self.text_tower = backend.towers(network)
        self._backend = backend
        self._handles: dict[str, list[RemovableHandle]] = {}
        self._frozen_depth = 0
        self._frozen_copy: dict[str, Tensor] | None = None  # names as in self.named_parameters()
        self._frozen_text: tuple[Tensor, Tensor] | None = None  # token ids, features
        self._weights_hash: str | None = None

    # ---- features

    @property
    def family(self) -> str:
        """ "clip", "siglip", "siglip2" or "open_clip"."""
        return self._backend.family

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def embed_dim(self) -> int:
        """D, the width of the features."""
        return self._backend.embed_dim(self.network)

    def tokenize(self, texts: Sequence[str], slots: bool = False) -> Tokens:
        """Texts -> (M, L) token ids, padded and truncated as the checkpoint wants it.

        Neither the padding nor the other texts of the batch change a text's features.
        """
        return self._backend.tokenize([texts] if isinstance(texts, str) else list(texts))

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Pixels as ``preprocess`` gives them -> (B, D) float32 features of length 1, also under autocast."""
        features, _ = self._run(images_BCHW, None)
        assert features is not None
        return features

    def encode_patches(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What ``encode_image`` gives, and the features of the patches from the same pass.

        A patch's feature is its last token on the way that the image's feature takes to the shared space: the final
        norm and projection of CLIP and open_clip; for SigLIP, whose image has no token of its own, the pooling head
        over that token alone. The weights were not trained for single patches: good for comparing them, not more.

        Returns:
            (B, D) and (B, Y, X, D) float32 features of length 1.

        Raises:
            ModelError: an open_clip model pools by attention in a way that has no such reading.
        """
        image_BD, patch_BYXD = self._run(images_BCHW, None, patches=True)
        assert image_BD is not None
        assert patch_BYXD is not None
        return image_BD, patch_BYXD

    def encode_text(self, texts: Sequence[str] | Tokens) -> Tensor:
        """Texts, or what ``tokenize`` made of them -> (M, D) float32 features of length 1, also under autocast."""
        _, features = self._run(None, texts if isinstance(texts, dict) else self.tokenize(texts))
        assert features is not None
        return features

    def forward(
        self, images_BCHW: Tensor | None = None, tokens: Tokens | None = None, patches: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """Image features (B, D) and text features (M, D), float32 and of length 1; None for what was not given.

        With ``patches``, image and patch features (B, Y, X, D) instead.
        """
        image_BD = text_MD = None
        if images_BCHW is not None:
            images_BCHW = images_BCHW.to(self.device)
            with self.image_tower.reading(partial(self._backend.image_layout, self.network, images_BCHW)):
                if patches:
                    image_BD, patch_BYXD = self._backend.image_and_patches(self.network, images_BCHW)
                    return F.normalize(image_BD.float(), dim=-1), F.normalize(patch_BYXD.float(), dim=-1)
                image_BD = F.normalize(self._backend.image(self.network, images_BCHW).float(), dim=-1)
        if tokens is not None:
            tokens = {name: ids.to(self.device) for name, ids in tokens.items()}
            with self.text_tower.reading(partial(self._backend.text_layout, self.network, tokens)):
                text_MD = F.normalize(self._backend.text(self.network, tokens).float(), dim=-1)
        return image_BD, text_MD

    def run(
        self,
        tower: str,
        inputs: Any,
        patches: bool = False,
        values: dict[str, Tensor] | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> dict[str, Tensor]:
        """TEMPORARY stand-in."""
        copied = self._frozen_copy if self._frozen_depth and self._frozen_copy is not None else values
        args = (tower, inputs, patches, wanted)
        return (
            torch.func.functional_call(_Raw(self), {f"model.{k}": v for k, v in copied.items()}, args)
            if copied
            else _Raw(self)(*args)
        )

    @property
    def logit_scale(self) -> Tensor:
        """Factor of the cosine similarity in the logits (the inverse temperature, exp already applied); a scalar."""
        return self._weight("logit_scale").float().exp().reshape(())

    @property
    def logit_bias(self) -> Tensor:
        """What is added to all logits: SigLIP's bias, 0 for CLIP; a scalar."""
        bias = self._weight("logit_bias")
        return torch.zeros((), device=self.device) if bias is None else bias.float().reshape(())

    def scale_and_bias(self, frozen: bool) -> tuple[Tensor, Tensor]:
        """``logit_scale`` and ``logit_bias``, as they are or as they were pretrained."""
        if not frozen or self._frozen_copy is None:
            return self.logit_scale, self.logit_bias
        with self.frozen():
            return self.logit_scale, self.logit_bias

    def logits(self, image_BD: Tensor, text_CD: Tensor) -> Tensor:
        """Features of images and of classes -> (B, C) float32 logits with the checkpoint's scale and bias.

        Also under autocast: at a scale of 100, bf16 would round logits to steps of an eighth.
        """
        with torch.autocast(image_BD.device.type, enabled=False):
            return self.logit_scale * image_BD @ text_CD.T + self.logit_bias

    def _run(
        self, images_BCHW: Tensor | None, tokens: Tokens | None, patches: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        if self._frozen_depth and self._frozen_copy is not None:
            return torch.func.functional_call(self, self._frozen_copy, (images_BCHW, tokens, patches))
        return self(images_BCHW, tokens, patches)

    def _weight(self, name: str) -> Any:
        if self._frozen_depth and self._frozen_copy is not None:
            return self._frozen_copy.get(f"network.{name}")
        return getattr(self.network, name, None)

    # ---- the frozen model

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, the model behaves as it was pretrained, whatever has been trained; no gradients, no dropout.

        It is the same model with its adapters off, so nothing is copied. Where the pretrained weights themselves are
        trained, ``keep_frozen_copy`` must have been called before.

        Raises:
            ModelError: pretrained weights are set to be trained and there is no frozen copy of them.
        """
        if self._frozen_copy is None and any(p.requires_grad for p in self.network.parameters()):
            raise ModelError("the pretrained weights are being trained: call keep_frozen_copy() before the training.")
        adapters = [m for m in self.adapters.modules() if isinstance(m, Adapter)]
        enabled = [adapter.enabled for adapter in adapters]
        training = [module for module in self.network.modules() if module.training]
        for adapter in adapters:
            adapter.enabled = False
        for module in training:
            module.training = False
        self._frozen_depth += 1
        try:
            with torch.no_grad():
                yield
        finally:
            self._frozen_depth -= 1
            for adapter, was in zip(adapters, enabled, strict=True):
                adapter.enabled = was
            for module in training:
                module.training = True

    def frozen_text(self, tokens: Tokens) -> Tensor:
        """(M, D) text features of the frozen model, computed once for the same token tensors.

        Meant for the class prompts of a training, which are the same objects at every step.
        """
        if self._frozen_text is None or self._frozen_text[0] is not tokens["input_ids"]:
            with self.frozen():
                self._frozen_text = (tokens["input_ids"], self.encode_text(tokens))
        return self._frozen_text[1]

    def keep_frozen_copy(self) -> None:
        """Snapshot the pretrained weights: to call once before training them, so that ``frozen`` can go back."""
        if self._frozen_copy is None:
            self._frozen_copy = {
                f"network.{name}": value.detach().clone() for name, value in self.network.named_parameters()
            }

    def train_weights(self, towers: Literal["both", "image", "text"] = "both") -> None:
        """Let the weights of ``towers``, the logit scale and the bias be trained, nothing else; keeps a frozen copy."""
        self.keep_frozen_copy()
        self.requires_grad_(False)
        for name, weight in self.network.named_parameters():
            part = name.split(".")[0]
            tower = "image" if part in self._backend.image_parts else "text"
            weight.requires_grad_(towers in ("both", tower) or part in ("logit_scale", "logit_bias"))

    def frozen_weights(self) -> dict[str, Tensor]:
        """The pretrained values of the network's weights that are trained, by the names of ``trained_state``."""
        weights = self._frozen_copy or {}
        return {name: value for name, value in weights.items() if self.get_parameter(name).requires_grad}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DualEncoder:
        super()._apply(fn, recurse)
        self._frozen_text = None
        if self._frozen_copy is not None:  # not registered, so that it is neither trained nor saved; but it moves along
            self._frozen_copy = {name: fn(value) for name, value in self._frozen_copy.items()}
        return self

    # ---- adapters

    def attach(self, key: str, adapter: Adapter) -> None:
        """Add an adapter under ``key`` (letters, digits, ``_`` and ``-``) and install its hooks.

        Raises:
            ModelError: the key is taken or malformed.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", key) or key in self.adapters:
            raise ModelError(f"adapter key {key!r} is {'taken' if key in self.adapters else 'malformed'}.")
        self.adapters[key] = adapter.to(self.device)
        self._handles[key] = adapter.install()

    def detach(self, key: str) -> None:
        """Take an adapter off; the model is as if it had never been there.

        Raises:
            ModelError: there is no adapter under ``key``.
        """
        if key not in self.adapters:
            raise ModelError(f"there is no adapter {key!r}; attached: {', '.join(self.adapters) or 'none'}.")
        for handle in self._handles.pop(key):
            handle.remove()
        del self.adapters[key]

    def detach_all(self) -> None:
        """Take all adapters and the head off."""
        for key in list(self.adapters):
            self.detach(key)
        self.head = None

    def attach_head(self, head: nn.Module) -> None:
        """Keep the head of a method with the model: it is trained, saved and moved along, and leaves features alone."""
        self.head = head.to(self.device)

    def merge_adapters(self) -> None:
        """Fold all adapters into the weights and take them off: from here on this is a plain, other model.

        ``frozen`` then means the merged weights, and ``weights_hash`` is theirs.

        Raises:
            ModelError: an adapter cannot be merged; nothing has been changed.
        """
        adapters = [adapter for adapter in self.adapters.values() if isinstance(adapter, Adapter)]
        for adapter in adapters:
            if type(adapter).merge is Adapter.merge:
                adapter.merge()  # raises, before anything is folded
        with torch.no_grad():
            for adapter in adapters:
                adapter.merge()
        self.detach_all()
        self.network.requires_grad_(False)
        self._frozen_copy = None
        self._frozen_text = None
        self._weights_hash = None

    # ---- on disk

    def trained_state(self) -> dict[str, Tensor]:
        """CPU copies of all that is trained: the adapters, and the network's parameters with ``requires_grad``."""
        return {name: value.detach().cpu().clone() for name, value in self._trained().items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Set what is trained from ``trained_state`` of a model with the same adapters and the same ``requires_grad``.

        Raises:
            ModelError: names are missing, unknown, or of another shape; nothing has been changed.
        """
        if self.head is not None:
            self.head.take_lengths({n.removeprefix("head."): v for n, v in state.items() if n.startswith("head.")})
        own = self._trained()
        problems = {
            "missing": sorted(own.keys() - state.keys()),
            "unknown": sorted(state.keys() - own.keys()),
            "of another shape": sorted(
                f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
                for name in own.keys() & state.keys()
                if own[name].shape != state[name].shape
            ),
        }
        if any(problems.values()):
            listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
            raise ModelError(f"these trained weights are of another model or method. {listed}.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def _trained(self) -> dict[str, Tensor]:
        trained = {f"network.{n}": p for n, p in self.network.named_parameters() if p.requires_grad}
        trained |= {f"adapters.{n}": t for n, t in self.adapters.state_dict(keep_vars=True).items()}
        head = self.head.state_dict(keep_vars=True) if self.head is not None else {}
        return {**trained, **{f"head.{n}": t for n, t in head.items()}}

    def save(self, folder: str | Path) -> None:
        """Write a plain checkpoint: safetensors, JSON, tokenizer and image settings, as the model's library reads them.

        Raises:
            ModelError: adapters are attached.
        """
        if self.adapters:
            raise ModelError(f"adapters are attached ({', '.join(self.adapters)}): merge them first, or detach them.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(self.network, folder)

    @property
    def weights_hash(self) -> str:
        """16 hex digits over names, shapes and float32 values of the pretrained weights; adapters don't count.

        Computed once, from the frozen copy where there is one; ask for it before training weights without one.
        """
        if self._weights_hash is None:
            weights = self._frozen_copy or {f"network.{n}": p for n, p in self.network.named_parameters()}
            digest = hashlib.sha256()
            for name in sorted(weights):
                values = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
                digest.update(f"{name} {list(values.shape)}\n".encode())
                digest.update(np.ascontiguousarray(values, "<f4").data)
            self._weights_hash = digest.hexdigest()[:16]
        return self._weights_hash


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Raw(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tower, inputs, patches, wanted):
        m = self.model
        if tower == "image":
            with m.image_tower.reading(partial(m._backend.image_layout, m.network, inputs)):
                if patches:
                    a, b = m._backend.image_and_patches(m.network, inputs)
                    return {"feature": a.float(), "patches": b.float()}
                return {"feature": m._backend.image(m.network, inputs).float()}
        with m.text_tower.reading(partial(m._backend.text_layout, m.network, inputs)):
            return {"feature": m._backend.text(m.network, inputs).float()}
