"""The one view over every CLIP-like model.

Shapes: B images, M texts, C classes, D feature width, L tokens of a text, C H W pixels, Y X grid of patches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.core.errors import ModelError, some
from steadyclip.models.adapter import Adapter
from steadyclip.models.preprocess import Preprocess
from steadyclip.models.sharding import part_like, whole
from steadyclip.models.switches import turned_off
from steadyclip.models.towers import Backend, Layout, Side, Tokens, Tower, digest


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
        self.head: Any = None  # of a method: trained, saved and moved along; features do not depend on it
        self.tuned = True  # False inside ``frozen``
        self.compiled: Callable[..., dict[str, Tensor]] | None = None  # inside ``compiling.compiled``
        self.preprocess = preprocess
        self.image_tower, self.text_tower = backend.towers(network)
        self._backend = backend
        self._handles: list[RemovableHandle] = []
        self._frozen_copy: dict[str, Tensor] | None = None  # names as in self.named_parameters()
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

    @property
    def pad(self) -> int | None:
        """The token that fills a text up; None where only the library of the model knows it."""
        return getattr(self._backend, "pad", None)

    @property
    def prompted(self) -> str | None:
        """What follows the learned tokens that take the place of a text's first words, such as "{}."; None: no such."""
        return getattr(self._templated(), "template", None)

    def tokenize(self, texts: Sequence[str], slots: bool = False) -> Tokens:
        """Texts -> (M, L) token ids, padded and truncated as the checkpoint wants it.

        Neither the padding nor the other texts of the batch change a text's features.

        Args:
            slots: leave room for the learned tokens of an adapter that is on, where it has some (see ``prompted``):
                every text of that model needs it, captions too. Frozen features need plain tokens.

        Raises:
            UsageError: a text is too long with the learned tokens.
        """
        texts, tokenize = [texts] if isinstance(texts, str) else list(texts), self._backend.tokenize
        adapter = self._templated() if slots else None
        return adapter.with_slots(texts, tokenize) if adapter else tokenize(texts)

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Pixels as ``preprocess`` gives them -> (B, D) float32 features of length 1, also under autocast."""
        return F.normalize(self.run("image", images_BCHW)["feature"], dim=-1)

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
        output = self.run("image", images_BCHW, patches=True)
        return F.normalize(output["feature"], dim=-1), F.normalize(output["patches"], dim=-1)

    def encode_text(self, texts: Sequence[str] | Tokens) -> Tensor:
        """Texts, or what ``tokenize`` made of them -> (M, D) float32 features of length 1, also under autocast.

        Where learned tokens take the place of words, texts are what follows them; tokens need ``slots=True``.
        """
        tokens = texts if isinstance(texts, dict) else self.tokenize(texts, slots=True)
        return F.normalize(self.run("text", tokens)["feature"], dim=-1)

    def run(
        self,
        tower: Side,
        inputs: Tensor | Tokens,
        patches: bool = False,
        *,
        wanted: Iterable[str] = (),
        values: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One raw pass of one tower, under the weights that hold here (see ``frozen``) or under others.

        Args:
            tower: "image" or "text".
            inputs: pixels (B, C, H, W), or what ``tokenize`` gives.
            patches: the features of an image's patches as well.
            wanted: further outputs, by the names that adapters know, such as "delta".
            values: parameters to take in the place of the model's own, by the names of ``named_parameters``.

        Returns:
            "feature" (B, D), and "patches" (B, Y, X, D) if asked for: float32, not normalized. "wanted" outputs as
            ``Adapter.emitted`` describes them, those of several adapters joined on axis 1.

        Raises:
            ModelError: an output is wanted that no adapter gives, a value is of no parameter, or tokens leave no room
                for learned ones.
        """
        if values is not None and (unknown := values.keys() - dict(self.named_parameters()).keys()):
            raise ModelError(f"values are given for parameters that the model does not have: {some(sorted(unknown))}.")
        if values is None and not self.tuned:
            values = self._frozen_copy
        device = self.device
        inputs = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
        names, adapters = frozenset(wanted), self._enabled()
        for adapter in adapters:
            adapter.wanted = names
        try:
            args = tower, inputs, patches
            call = self.compiled or self
            output = torch.func.functional_call(self, dict(values), args) if values else call(*args)
        finally:
            for adapter in adapters:
                adapter.wanted = frozenset()
            self.image_tower.layouts = self.text_tower.layouts = ()
        if missing := names - output.keys():
            raise ModelError(f"no adapter of the {tower} tower that is on gives {some(sorted(missing))}.")
        return output

    def forward(self, tower: Side, inputs: Any, patches: bool = False) -> dict[str, Tensor]:
        """What ``run`` calls: the pass itself, with nothing in it that stops a compiler."""
        adapters = self._enabled()
        if not adapters:  # a plain model pays for nothing
            return self._pass(tower, inputs, patches)
        view = self.image_tower if tower == "image" else self.text_tower
        view.layouts = self._layouts(view, inputs, adapters)
        for adapter in adapters:
            adapter.prepare(tower)
        output = self._pass(tower, inputs, patches)
        emitted: dict[str, list[Tensor]] = {}
        for adapter in adapters:
            for name, value in adapter.emitted(tower).items():
                emitted.setdefault(name, []).append(value)
        return {**output, **{name: torch.cat(values, dim=1) for name, values in emitted.items()}}

    def _pass(self, tower: Side, inputs: Any, patches: bool) -> dict[str, Tensor]:
        if tower == "image":
            output = self._backend.image(self.network, inputs, patches)
        else:
            tokens = {name: ids for name, ids in inputs.items() if name != "slots"}
            output = {"feature": self._backend.text(self.network, tokens)}
        return {name: rows.float() for name, rows in output.items()}

    def _layouts(self, view: Tower, inputs: Any, adapters: list[Adapter]) -> tuple[Layout, ...]:
        """Of the tokens as they come, and, where adapters add some, of those from there on."""
        if view.name == "image":
            valid_BN = torch.ones(inputs.shape[0], view.context, dtype=torch.bool, device=inputs.device)
            summary_B = torch.zeros(inputs.shape[0], dtype=torch.long, device=inputs.device) if view.summary else None
            layout = Layout(valid_BN, summary_B, causal=False)
        else:
            layout = self._backend.text_layout(self.network, inputs)
            if any(adapter.template is not None for adapter in adapters):
                if "slots" not in inputs:
                    raise ModelError("these tokens leave no room for the learned ones: tokenize(texts, slots=True).")
                layout = layout.replaced(view.start, inputs["slots"])
        added = sum(adapter.added(view.name) for adapter in adapters)
        start = view.context if view.name == "image" else view.start
        return (layout, layout.grown(start, added)) if added else (layout,)

    def _enabled(self) -> list[Adapter]:
        return [module for module in self.adapters.modules() if isinstance(module, Adapter) and module.enabled]

    def _templated(self) -> Adapter | None:
        return next((adapter for adapter in self._enabled() if adapter.template is not None), None)

    @property
    def logit_scale(self) -> Tensor:
        """Factor of the cosine similarity in the logits (the inverse temperature, exp already applied); a scalar."""
        return self.scale_and_bias()[0]

    @property
    def logit_bias(self) -> Tensor:
        """What is added to all logits: SigLIP's bias, 0 for CLIP; a scalar."""
        return self.scale_and_bias()[1]

    def scale_and_bias(self, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """``logit_scale`` and ``logit_bias``, as they are or, if ``frozen``, as they were pretrained."""
        weights = dict(self.network.named_parameters(prefix="network", recurse=False))
        if (frozen or not self.tuned) and self._frozen_copy is not None:
            weights = self._frozen_copy
        scale, bias = weights["network.logit_scale"], weights.get("network.logit_bias")
        zero = torch.zeros((), device=self.device)
        return scale.float().exp().reshape(()), zero if bias is None else bias.float().reshape(())

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
        off = turned_off(self._enabled(), "enabled"), turned_off(self.network.modules(), "training")
        with off[0], off[1], turned_off([self], "tuned"), torch.no_grad():
            yield

    def keep_frozen_copy(self) -> None:
        """Snapshot the pretrained weights: to call once before training them, so that ``frozen`` can go back."""
        if self._frozen_copy is None:
            self._frozen_copy = {f"network.{n}": p.detach().clone() for n, p in self.network.named_parameters()}

    def train_weights(self, towers: Literal["both", "image", "text"] = "both", scale: bool = True) -> None:
        """Let the weights of ``towers`` be trained, and with ``scale`` logit scale and bias; keeps a frozen copy."""
        self.keep_frozen_copy()
        self.network.requires_grad_(False)
        for name, weight in self.network.named_parameters():
            part = name.split(".")[0]
            tower = "image" if part in self._backend.image_parts else "text"
            weight.requires_grad_(scale if part in ("logit_scale", "logit_bias") else towers in ("both", tower))

    def frozen_weights(self) -> dict[str, Tensor]:
        """The pretrained values of the network's weights that are trained, by the names of ``trained_state``."""
        weights = self._frozen_copy or {}
        return {name: value for name, value in weights.items() if self.get_parameter(name).requires_grad}

    def pretrained_state(self) -> dict[str, Tensor]:
        """What ``trained_state`` was before the training, as far as that is the pretrained model: its weights, and a
        head that starts as the zero-shot classifier."""
        head = {} if self.head is None else self.head.pretrained()
        return self.frozen_weights() | {f"head.{name}": value for name, value in head.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DualEncoder:
        super()._apply(fn, recurse)
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
            what = "is wanted by two pieces: leave one out" if key in self.adapters else "is malformed"
            raise ModelError(f"the place {key!r} for an adapter {what}.")
        self.adapters[key] = adapter.to(self.device)
        self._handles += adapter.install()

    def detach_all(self) -> None:
        """Take all adapters and the head off; the model is as if they had never been there."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.adapters.clear()
        self.head = None

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
        self._weights_hash = None

    # ---- on disk

    def trained_state(self) -> dict[str, Tensor]:
        """CPU copies of all that is trained: adapters, weights with ``requires_grad``. If split, all processes ask."""
        return {name: whole(value.detach()).cpu().clone() for name, value in self._trained().items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Set what is trained from ``trained_state`` of a model with the same adapters and the same ``requires_grad``.

        Raises:
            ModelError: names are missing, unknown, or of another shape; nothing has been changed.
        """
        if self.head is not None:
            lengths = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
            self.head.take_lengths(lengths)
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
            listed = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
            raise ModelError(f"these trained weights are of another model or method. {listed}.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(part_like(value, state[name]))

    def _trained(self) -> dict[str, Tensor]:
        trained: dict[str, Tensor] = {f"network.{n}": p for n, p in self.network.named_parameters() if p.requires_grad}
        trained |= {f"adapters.{n}": t for n, t in self.adapters.state_dict(keep_vars=True).items()}
        head = {} if self.head is None else self.head.state_dict(keep_vars=True)
        return trained | {f"head.{n}": t for n, t in head.items()}

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

    def save_settings(self, folder: Path) -> None:
        """Write configuration, tokenizer and image settings into an existing folder, without weights."""
        self._backend.save_settings(self.network, folder)

    @property
    def weights_hash(self) -> str:
        """16 hex digits over names, shapes and float32 values of the pretrained weights; adapters don't count.

        Computed once, from the frozen copy where there is one; ask for it before training weights without one.
        """
        if self._weights_hash is None:
            weights = self._frozen_copy or {f"network.{n}": p for n, p in self.network.named_parameters()}
            self._weights_hash = digest(weights)
        return self._weights_hash
