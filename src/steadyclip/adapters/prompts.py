"""Learned tokens in a tower's input: CoOp, CoCoOp, MaPLe, PromptSRC and what is built like them.

Text: the learned tokens take the place of a text's first words, behind the start token. The sentence is tokenized
whole, ``init`` words included, so that words and positions are those of the sentence that they start from; without
``init``, placeholder ids hold the place. Image: they stand behind the tower's own tokens, without positions, and pass
its first norm. Deep: the inputs of the first ``depth`` blocks get fresh tokens in these places. Behind the last block
added tokens are taken off again, so that pooling, patches and export see the usual ones.

Not here: positions "middle" and "front" of the name, and CoOp's class-specific tokens, which tie a model to its
classes.

Source: Zhou et al. 2022 (CoOp; CoCoOp), Jia et al. 2022 (VPT), Khattak et al. 2023 (MaPLe; PromptSRC), Guo and Gu 2025
(MMRL: tokens that enter at a later block).

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

from steadyclip.adapters.base import AdapterSpec, Towers
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.models import Adapter, DualEncoder, Tokens, Tower


class Prompts(AdapterSpec):
    """Learned tokens, one set for each tower that is chosen."""

    mergeable: ClassVar[bool] = False  # they are inputs, not weights

    towers: Towers = "text"
    """Which towers get learned tokens."""
    length: int = 4
    """L: learned tokens of a tower; ``init`` sets it where it is given."""
    depth: int = 1
    """J: blocks whose input gets fresh tokens; 1: only where they enter."""
    init: str | None = None
    """Words whose embeddings the text tokens start from, such as "a photo of a"; none: small random values."""
    template: str = "{}."
    """What follows the learned text tokens, {} being the class name."""
    coupling: Literal["none", "project"] = "none"
    """Image tokens are learned for themselves, or (project) linear maps of the text tokens, as in MaPLe."""
    meta: int | None = None
    """Hidden width of a net that shifts the text tokens by an image feature, as in CoCoOp; none: no such net."""
    enter: int = 0
    """Block, counted from 0, at whose input the tokens appear. Above 0 no words are replaced: a text grows too."""

    def __post_init__(self) -> None:
        self.require("length", self.length >= 1, "at least 1")
        self.require("depth", self.depth >= 1, "at least 1")
        self.require("enter", self.enter >= 0, "0 or more")
        self.require("meta", self.meta is None or self.meta >= 1, "at least 1, or none")
        self.require("template", "{}" in self.template, "text with {} in the place of the name")
        self.require("coupling", self.coupling == "none" or self.towers == "both", "none where towers is not both")
        self.require("meta", self.meta is None or self.towers != "image", "none where towers is image")
        words = self.towers != "image" and self.enter == 0
        self.require("init", self.init is None or words, "none where towers is image or enter is above 0")

    def attach(self, model: DualEncoder) -> None:
        key = "prompts_image" if self.towers == "image" else "prompts"
        taken = [other for other in model.adapters.values() if isinstance(other, PromptTokens)]
        for tower in self.chosen(model):
            if any(tower.name in other.towers for other in taken):
                raise ModelError(f"prompts: the {tower.name} tower has learned tokens already; give it one Prompts.")
            self._check(model, tower)
        model.attach(key, PromptTokens(model, self))

    def _check(self, model: DualEncoder, tower: Tower) -> None:
        blocks, needed = len(tower.blocks), self.enter + self.depth
        if tower.embed is None or tower.norm is None:
            raise ModelError(f"prompts: the {tower.name} tower of {model.name} takes no tokens; choose other towers.")
        if needed > blocks:
            raise UsageError(
                f"prompts: enter={self.enter} and depth={self.depth} need {needed} blocks, but the {tower.name} tower "
                f"of {model.name} has {blocks}: lower one of them."
            )


class PromptTokens(Adapter):
    """The learned tokens of ``spec``.

    Shapes: text (J, L, W) and image (J, L, W) of the towers that have their own; ``maps``, J linear layers from the
    text's width to the image's; ``net``, D -> meta -> W.

    Attributes:
        towers: the views of the towers that get tokens, by name.
        length: L.
        slots: the tokens take the place of a text's first words, so that texts must be tokenized with room for them.
        conditional: the text tokens depend on ``given``.
        given: (M, D), what the net reads for each text of the next pass: unit image features. Each pass takes it.
    """

    def __init__(self, model: DualEncoder, spec: Prompts) -> None:
        super().__init__()
        self.spec, self.model_name = spec, model.name
        self.towers = {tower.name: tower for tower in spec.chosen(model)}
        self.places = {block.module: (name, i) for name, t in self.towers.items() for i, block in enumerate(t.blocks)}
        self.slots = "text" in self.towers and spec.enter == 0
        self.template = spec.template if self.slots else None
        self.conditional = spec.meta is not None
        self.given: Tensor | None = None
        self.length, self._ids_L, words_LW = spec.length, None, None
        if spec.init is not None:
            self._ids_L = _word_ids(model, spec.init)
            self.length = len(self._ids_L)
            embed: Any = model.text_tower.embed
            words_LW = embed.weight[self._ids_L.to(embed.weight.device)].detach()
        context = model.text_tower.context
        if self.slots and context is not None and model.text_tower.start + self.length + 2 > context:  # a name, the end
            raise UsageError(
                f"prompts: {self.length} learned tokens leave no room for a name among the {context} tokens that "
                f"the text tower of {model.name} reads: take fewer, or shorter init words."
            )
        device, width = model.device, {tower.name: tower.width for tower in (model.image_tower, model.text_tower)}
        shape = spec.depth, self.length
        if "text" in self.towers:
            self.text = nn.Parameter(0.02 * torch.randn(*shape, width["text"], device=device))
            if words_LW is not None:
                with torch.no_grad():
                    self.text[0] = words_LW
        if spec.coupling == "project":
            first = nn.Linear(width["text"], width["image"], device=device)
            later = nn.Linear(width["text"], width["image"], device=device)  # MaPLe's are copies of one at the start
            self.maps = nn.ModuleList([first, *(copy.deepcopy(later) for _ in range(spec.depth - 1))])
        elif "image" in self.towers:
            self.image = nn.Parameter(0.02 * torch.randn(*shape, width["image"], device=device))
        if spec.meta is not None:
            layers = nn.Linear(model.embed_dim, spec.meta), nn.ReLU(), nn.Linear(spec.meta, width["text"])
            self.net = nn.Sequential(*layers).to(device)
        self._fresh: Sequence[Tensor] | None = None  # of each of the J blocks, in the pass under way
        self._taken_off: Tensor | None = None

    def install(self) -> list[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for name, tower in self.towers.items():
            if self.spec.enter == 0:
                assert tower.embed is not None
                handles.append(tower.embed.register_forward_hook(self._words if name == "text" else self._behind))
            first, last = self.spec.enter or 1, self.spec.enter + self.spec.depth
            for block in tower.blocks:
                # A text that has grown needs a grown mask in every block from there on.
                if first <= block.index < last or (name == "text" and 0 < self.spec.enter <= block.index):
                    handles.append(block.module.register_forward_pre_hook(self._before_block, with_kwargs=True))
            if self.added(name):
                handles.append(tower.blocks[-1].module.register_forward_hook(self._take_off))
        return handles

    def added(self, tower: str) -> int:
        return self.length if tower in self.towers and (tower == "image" or self.spec.enter) else 0

    # ---- one pass

    def prepare(self, tower: str) -> None:
        if tower not in self.towers:
            return
        if tower == "image":
            self._fresh = [m(x) for m, x in zip(self.maps, self.text, strict=True)] if self._coupled else [*self.image]
            return
        first, given_MD, self.given = self.text[0], self.given, None
        if self.conditional:
            if given_MD is None:
                raise ModelError(
                    "the learned tokens of this model depend on an image: set their `given`, a row a text."
                )
            first = first + self.net(given_MD)[:, None]
        self._fresh = [first, *self.text[1:]]

    def emitted(self, tower: str) -> dict[str, Tensor]:
        """ "extra": (B, L, W), what was taken off behind the last block, behind the tower's last norm."""
        taken_off_BLW, self._taken_off, self._fresh = self._taken_off, None, None
        if taken_off_BLW is None:
            return {}
        norm = self.towers[tower].norm
        assert norm is not None
        return {"extra": norm(taken_off_BLW).float()}

    @property
    def _coupled(self) -> bool:
        return self.spec.coupling == "project"

    def _tokens(self, j: int, x_BNW: Tensor) -> Tensor:
        if self._fresh is None:
            raise ModelError("a tower with learned tokens must be called through its model: encode_image, encode_text.")
        new = self._fresh[j].to(x_BNW.dtype)
        if new.ndim == 3 and len(new) != len(x_BNW):
            raise ModelError(f"learned tokens are given for {len(new)} texts, but {len(x_BNW)} are read.")
        return new if new.ndim == 3 else new.expand(len(x_BNW), -1, -1)

    def _words(self, _: nn.Module, inputs: tuple[Any, ...], x_MNW: Tensor) -> Tensor:
        return self._replace("text", x_MNW, 0, self.length) if self.enabled else x_MNW

    def _behind(self, _: nn.Module, inputs: tuple[Any, ...], x_BNW: Tensor) -> Tensor:
        return self._replace("image", x_BNW, 0, 0) if self.enabled else x_BNW

    def _replace(self, name: str, x_BNW: Tensor, j: int, there: int) -> Tensor:
        """The j-th fresh tokens in the place of ``there`` tokens."""
        new_BLW = self._tokens(j, x_BNW)
        if name == "image":
            return torch.cat([x_BNW[:, : x_BNW.shape[1] - there], new_BLW], dim=1)
        start = self.towers["text"].start
        return torch.cat([x_BNW[:, :start], new_BLW, x_BNW[:, start + there :]], dim=1)

    def _before_block(
        self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.enabled:
            return None
        (name, index), x_BNW, enter = self.places[module], inputs[0], self.spec.enter
        if index - enter < self.spec.depth:
            x_BNW = self._replace(name, x_BNW, index - enter, 0 if 0 < index == enter else self.length)
        others = inputs[1:]
        if name == "text" and enter:
            usual = x_BNW.shape[1] - self.length
            others = tuple(self._grown(value, usual) for value in others)
            options = {key: self._grown(value, usual) for key, value in options.items()}
        return (x_BNW, *others), options

    def _grown(self, value: Any, length: int) -> Any:
        """A mask over pairs of ``length`` tokens, which a backend may pass to its blocks, with room for ours."""
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[-2:] != (length, length):
            return value
        tower = self.towers["text"]
        return grown_mask(value, tower.start, self.length, causal=tower.layout(length).causal)

    def _take_off(self, module: nn.Module, inputs: tuple[Any, ...], x_BNW: Tensor) -> Tensor:
        if not self.enabled:
            return x_BNW
        name = self.places[module][0]
        start = x_BNW.shape[1] - self.length if name == "image" else self.towers["text"].start
        if "extra" in self.wanted:
            self._taken_off = x_BNW[:, start : start + self.length]
        return torch.cat([x_BNW[:, :start], x_BNW[:, start + self.length :]], dim=1)

    # ---- texts

    def with_slots(self, texts: Sequence[str], tokenize: Callable[[Sequence[str], int], Tokens]) -> Tokens:
        """Texts, tokenized with their first L words for the learned tokens.

        Raises:
            UsageError: a text does not fit, or the tokenizer reads ``init`` otherwise in front of it.
        """
        tower, L, init = self.towers["text"], self.length, self.spec.init
        start, context = tower.start, tower.context or 0
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
                name: torch.cat([x[:, :start], x.new_full((len(x), L), fill[name]), x[:, start:]], dim=1)
                for name, x in tokens.items()
            }
        elif not (ids_MN[:, start : start + L] == self._ids_L).all():
            raise UsageError(f"prompts: the tokenizer reads init={init!r} otherwise in front of the names; change it.")
        cut = {name: x[:, :context] for name, x in tokens.items()}
        return {**cut, "slots": torch.full((len(ids_MN),), L)}


def grown_mask(mask: Tensor, start: int, count: int, *, causal: bool) -> Tensor:
    """An attention mask (..., N, N) for sequences into which ``count`` tokens have been put, the first at ``start``.

    The new tokens see what the token before them sees and are seen by all; ``causal``: by what follows only. Booleans
    say who is seen, other numbers are added to the attention logits.
    """
    length, device = mask.shape[-1], mask.device
    places = torch.arange(length, device=device)
    rows = torch.cat([places[:start], places.new_full((count,), max(start - 1, 0)), places[start:]])
    mask = mask.index_select(-2, rows)
    boolean = mask.dtype == torch.bool
    seen = mask.new_full((*mask.shape[:-1], count), boolean)
    mask = torch.cat([mask[..., :start], seen, mask[..., start:]], dim=-1)
    if causal:
        future = torch.ones(length + count, length + count, dtype=torch.bool, device=device).triu(1)
        mask = mask.masked_fill(future, False if boolean else -torch.inf)
    return mask


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
