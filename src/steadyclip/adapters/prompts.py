"""Learned tokens in a tower's input: CoOp, CoCoOp, MaPLe, PromptSRC and what is built like them.

Text: the learned tokens replace a text's first words, behind the start token. The sentence is tokenized as a whole,
``init`` words included, so that words and positions are those of the sentence that they start from; without ``init``,
placeholder ids hold the place. Image: they stand behind the tower's own tokens, without positions, and are removed
behind the last block, so that pooling, patches and export see the usual tokens. With ``depth`` above 1, the inputs of
the next blocks get fresh tokens in the same places.

Source: Zhou et al. 2022 (CoOp; CoCoOp), Jia et al. 2022 (VPT), Khattak et al. 2023 (MaPLe; PromptSRC), Yao et al. 2024
(TCP).

Shapes: B sequences, N tokens of the tower, W its width, L learned tokens, J blocks with fresh ones, M texts, D width of
the features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, Towers, require_no_tokens
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.models import Adapter, DualEncoder, Tokens


class Prompts(AdapterSpec):
    """Learned tokens, one set for each tower that is chosen."""

    mergeable: ClassVar[bool] = False  # they are inputs, not weights

    towers: Towers = "text"
    """Which towers get learned tokens."""
    length: int = 4
    """L: learned tokens of a tower; ``init`` sets it where it is given."""
    depth: int | None = 1
    """J: blocks whose input gets fresh tokens; 1: the first block only; none: three quarters of them (9 of 12)."""
    init: str | None = None
    """Words whose embeddings the text tokens start from, such as "a photo of a"; none: small random values."""
    template: str = "{}."
    """What follows the learned text tokens, {} being the class name."""
    coupling: Literal["none", "project"] = "none"
    """Image tokens are learned for themselves, or (project) linear maps of the text tokens, as in MaPLe."""
    meta: int | None = None
    """Hidden width of a net that shifts the text tokens by an image feature, as in CoCoOp; none: no such net."""
    class_net: int | None = None
    """Hidden width of a net that makes text tokens from the text's frozen feature, as in TCP; none: no such net."""
    class_block: int | None = None
    """Block, counted from 1, whose input gets these in the place of the others; none: two thirds up (9 of 12)."""

    def __post_init__(self) -> None:
        self.require("length", 1 <= self.length <= 1024, "from 1 to 1024")
        self.require("depth", self.depth is None or self.depth >= 1, "at least 1, or none")
        self.require("meta", self.meta is None or 1 <= self.meta <= 65_536, "from 1 to 65536, or none")
        self.require("template", "{}" in self.template, "text with {} in the place of the name")
        self.require("coupling", self.coupling == "none" or self.towers == "both", "none where towers is not both")
        self.require("meta", self.meta is None or self.towers != "image", "none where towers is image")
        self.require("init", self.init is None or self.towers != "image", "none where towers is image")
        self.require("class_net", self.class_net is None or self.class_net >= 1, "at least 1, or none")
        alone = self.meta is None and self.towers != "image"
        self.require("class_net", self.class_net is None or alone, "none where meta is set or towers is image")
        self.require("class_block", self.class_block is None or self.class_net is not None, "none without class_net")

    def attach(self, model: DualEncoder) -> None:
        require_no_tokens(model, self.chosen(model))
        depth = self.blocks_deep(model)
        for tower in self.chosen(model):
            if depth > len(tower.blocks):
                raise UsageError(
                    f"prompts: depth={self.depth}, but the {tower.name} tower of {model.name} has {len(tower.blocks)} "
                    "blocks: lower it."
                )
        at, blocks = self.class_index(model), len(model.text_tower.blocks)
        if self.class_net is not None and not depth <= at < blocks:
            raise UsageError(
                f"prompts: class_block={at + 1}, but it must be above depth={depth}, and the text tower of "
                f"{model.name} has {blocks} blocks."
            )
        model.attach("prompts_image" if self.towers == "image" else "prompts", PromptTokens(model, self))

    def blocks_deep(self, model: DualEncoder) -> int:
        """J, in ``model``."""
        # of the tower with fewer blocks: coupled tokens go together, block by block
        return self.depth or max(1, round(0.75 * min(len(tower.blocks) for tower in self.chosen(model))))

    def class_index(self, model: DualEncoder) -> int:
        """Index of the block whose input gets the tokens of ``class_net``."""
        return 2 * len(model.text_tower.blocks) // 3 if self.class_block is None else self.class_block - 1


class PromptTokens(Adapter):
    """The learned tokens of ``spec``.

    Shapes: text (J, L, W) and image (J, L, W) of the towers that have their own; ``maps``, J linear layers from the
    text's width to the image's; ``net``, D -> meta -> W; ``class_net``, D -> class_net -> L W.

    Attributes:
        towers: those that get tokens, by name.
        length: L.
        depth: J.
        conditional: the text tokens depend on an image, which is ``given``.
        by_class: some text tokens are made from the text's frozen feature, which is ``given``.
        given: (M, D), unit features, one row for each text of the next pass, which takes them.
    """

    def __init__(self, model: DualEncoder, spec: Prompts) -> None:
        super().__init__()
        self.spec, self.model_name = spec, model.name
        self.towers = {tower.name: tower for tower in spec.chosen(model)}
        self.places = {block.module: (name, i) for name, t in self.towers.items() for i, block in enumerate(t.blocks)}
        self.places |= {tower.embed: (name, 0) for name, tower in self.towers.items()}
        self.template = spec.template if "text" in self.towers else None
        self.conditional, self.by_class = spec.meta is not None, spec.class_net is not None
        self.given: Tensor | None = None
        self._ids_L = None if spec.init is None else _word_ids(model, spec.init)
        self.length = spec.length if self._ids_L is None else len(self._ids_L)
        self.depth = spec.blocks_deep(model)
        context = model.text_tower.context
        if "text" in self.towers and model.text_tower.start + self.length + 2 > context:  # a name, the end
            raise UsageError(
                f"prompts: {self.length} learned tokens leave no room for a name among the {context} tokens that "
                f"the text tower of {model.name} reads: take fewer, or shorter init words."
            )
        device, width = model.device, {tower.name: tower.width for tower in (model.image_tower, model.text_tower)}
        shape = self.depth, self.length
        if "text" in self.towers:
            self.text = nn.Parameter(0.02 * torch.randn(*shape, width["text"], device=device))
            if self._ids_L is not None:
                with torch.no_grad():
                    self.text[0] = model.text_tower.embed.get_parameter("weight")[self._ids_L.to(device)]
        if spec.coupling == "project":
            first = nn.Linear(width["text"], width["image"], device=device)
            later = nn.Linear(width["text"], width["image"], device=device)  # MaPLe's are copies of one at the start
            self.maps = nn.ModuleList([first, *(copy.deepcopy(later) for _ in range(self.depth - 1))])
        elif "image" in self.towers:
            self.image = nn.Parameter(0.02 * torch.randn(*shape, width["image"], device=device))
        if spec.meta is not None:
            layers = nn.Linear(model.embed_dim, spec.meta), nn.ReLU(), nn.Linear(spec.meta, width["text"])
            self.net = nn.Sequential(*layers).to(device)
        self.class_index = spec.class_index(model)
        if spec.class_net is not None:
            layers = nn.Linear(model.embed_dim, spec.class_net), nn.Linear(spec.class_net, self.length * width["text"])
            self.class_net = nn.Sequential(layers[0], QuickGELU(), layers[1]).to(device)
        self._fresh: dict[int, Tensor] | None = None  # by index of the block, in the pass under way

    def install(self) -> list[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for name, tower in self.towers.items():
            handles.append(tower.embed.register_forward_hook(self._enter))
            later = [*range(1, self.depth), *([self.class_index] if self.by_class and name == "text" else [])]
            for index in later:
                handles.append(tower.blocks[index].module.register_forward_pre_hook(self._before_block))
            if name == "image":
                handles.append(tower.blocks[-1].module.register_forward_hook(self._take_off))
        return handles

    def added(self, tower: str) -> int:
        return self.length if tower == "image" and tower in self.towers else 0

    def prepare(self, tower: str) -> None:
        if tower not in self.towers:
            return
        if tower == "image":
            coupled = self.spec.coupling == "project"
            tokens = [m(x) for m, x in zip(self.maps, self.text, strict=True)] if coupled else self.image
            self._fresh = dict(enumerate(tokens))
            return
        self._fresh, given_MD, self.given = dict(enumerate(self.text)), self.given, None
        if (self.conditional or self.by_class) and given_MD is None:
            what = "an image" if self.conditional else "the frozen feature of the text"
            raise ModelError(f"these learned tokens depend on {what}: set their `given`, a row for each text.")
        if self.conditional:
            self._fresh[0] = self._fresh[0] + self.net(given_MD)[:, None]
        if self.by_class:
            self._fresh[self.class_index] = self.class_net(given_MD).unflatten(-1, (self.length, -1))

    def emitted(self, tower: str) -> dict[str, Tensor]:
        self._fresh = None
        return {}

    def _tokens(self, j: int, x_BNW: Tensor) -> Tensor:
        if self._fresh is None:
            raise ModelError("a tower with learned tokens must be called through its model: encode_image, encode_text.")
        new = self._fresh[j].to(x_BNW.dtype)
        if new.ndim == 3 and new.shape[0] != x_BNW.shape[0]:
            raise ModelError(f"learned tokens are given for {len(new)} texts, but {len(x_BNW)} are read.")
        return new if new.ndim == 3 else new.expand(x_BNW.shape[0], -1, -1)

    def _replaced(self, name: str, x_BNW: Tensor, j: int, count: int) -> Tensor:
        """The j-th fresh tokens in the place of ``count`` tokens."""
        start = self.towers["text"].start if name == "text" else x_BNW.shape[1] - count
        return torch.cat([x_BNW[:, :start], self._tokens(j, x_BNW), x_BNW[:, start + count :]], dim=1)

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...], x_BNW: Tensor) -> Tensor:
        """A text's first words make way; the tokens of an image are all kept."""
        name, _ = self.places[module]
        return self._replaced(name, x_BNW, 0, self.length if name == "text" else 0) if self.enabled else x_BNW

    def _before_block(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        name, index = self.places[module]
        return (self._replaced(name, inputs[0], index, self.length), *inputs[1:]) if self.enabled else None

    def _take_off(self, module: nn.Module, inputs: tuple[Any, ...], x_BNW: Tensor) -> Tensor:
        return x_BNW[:, : -self.length] if self.enabled else x_BNW

    def with_slots(self, texts: Sequence[str], tokenize: Callable[[Sequence[str], int], Tokens]) -> Tokens:
        """Texts, tokenized with their first L words for the learned tokens.

        Raises:
            UsageError: a text does not fit, or the tokenizer reads ``init`` otherwise in front of it.
        """
        tower, L, init = self.towers["text"], self.length, self.spec.init
        start, context = tower.start, tower.context
        end, placeholder = (int(ids[start]) for ids in tokenize(["", "a"], context)["input_ids"])
        # One token more than fits, so that a text that is cut shows.
        tokens = tokenize(list(texts) if init is None else [f"{init} {text}" for text in texts], context + 1)
        ids_MN = tokens["input_ids"]
        is_end_MN = F.pad(ids_MN[:, start:] == end, (0, 1), value=True)
        used_M = start + 1 + is_end_MN.int().argmax(dim=1) + (L if init is None else 0)
        if (used_M > context).any():
            worst = int(used_M.argmax())
            raise UsageError(
                f"prompts: {texts[worst]!r} and {L} learned tokens need more than the {context} tokens that the text "
                f"tower of {self.model_name} reads: shorten the name or the template, or take fewer learned tokens."
            )
        if self._ids_L is None:
            fill = {"input_ids": placeholder, "attention_mask": 1}
            tokens = {
                name: torch.cat([x[:, :start], x.new_full((x.shape[0], L), fill[name]), x[:, start:]], dim=1)
                for name, x in tokens.items()
            }
        elif not (ids_MN[:, start : start + L] == self._ids_L).all():
            raise UsageError(f"prompts: the tokenizer reads init={init!r} otherwise in front of the names; change it.")
        cut = {name: x[:, :context] for name, x in tokens.items()}
        return {**cut, "slots": torch.full((len(ids_MN),), L)}


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), as in CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _word_ids(model: DualEncoder, init: str) -> Tensor:
    """The ids of the words of ``init``, (L,).

    Raises:
        UsageError: there are none.
    """
    start = model.text_tower.start
    empty_N, ids_N = model.tokenize(["", init])["input_ids"][:, start:]
    length = int(F.pad(ids_N == empty_N[0], (0, 1), value=True).int().argmax())
    if length == 0:
        raise UsageError(f"prompts: init={init!r} has no word tokens for {model.name}: write words, or leave it out.")
    return ids_N[:length]
