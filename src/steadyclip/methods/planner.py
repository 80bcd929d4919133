"""Makes the features that a method reads: plans tower passes, each feature once, and takes gradients back through them.

The only place that calls a tower for a method. It knows no method, term or head by name, and one adapter: ``prompts``,
whose learned tokens decide how texts are tokenized.

Shapes: B images in a batch, C classes, M distinct texts, T texts of a row, D feature width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.heads import Head
from steadyclip.models import DualEncoder
from steadyclip.models.encoder import Side, turned_off
from steadyclip.objectives.features import Batch, Features, Image, Read, State, TextView, seeded

if TYPE_CHECKING:
    from steadyclip.adapters.prompts import PromptTokens

SCORED_AT_ONCE = 256
"""Texts in a pass without gradients: 1000 names by 80 templates must not become one batch of 80,000 texts."""
_REMEMBERED = 200_000
"""Frozen texts whose features are kept."""

Outputs = dict[str, Tensor]


@dataclass
class Pass:
    """Rows that go through a tower in one state.

    Attributes:
        rows: pixels, or texts.
        give: hands the outputs to the reads.
        chunk: rows at once; None takes all. With gradients, a pass in chunks is made twice: see ``Made``.
        given: what learned tokens are conditioned on, one row for each text.
        slots: the texts follow learned tokens.
        words: what the pass is seeded by, beside the start of the chunk.
    """

    tower: Side
    state: State
    rows: Any
    give: Callable[[Outputs], None]
    words: tuple[object, ...]
    chunk: int | None = None
    patches: bool = False
    wanted: frozenset[str] = frozenset()
    given: Tensor | None = None
    slots: bool = False


class Planner:
    """The passes of one model with a method's pieces on it.

    Attributes:
        head: tells classes apart.
        touched: towers below whose features something is trained.
        calls: passes and rows so far, as ``{"image tuned calls": 3, "image tuned rows": 96, ...}``.
        average: the running average of what is trained, by parameter name, while there is one.
        arithmetic: entered around every forward pass.
        chunks: by tower, rows that go through with gradients at once; None keeps one graph of the whole pass.
    """

    def __init__(self, model: DualEncoder, head: Head, touched: frozenset[str]) -> None:
        self.model, self.head, self.touched = model, head, touched
        self.calls: Counter[str] = Counter()
        self.average: dict[str, Tensor] | None = None
        self.arithmetic: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self.chunks: dict[str, int | None] = {"image": None, "text": None}
        self._tokens: dict[tuple[bool, tuple[str, ...]], dict[str, Tensor]] = {}
        self._texts: dict[tuple[str, str], Tensor] = {}  # of the frozen model, by output and text

    @property
    def prompts(self) -> PromptTokens | None:
        """The adapter of learned tokens, if there is one."""
        adapters = self.model.adapters  # a ModuleDict, which has no get()
        return adapters["prompts"] if "prompts" in adapters else None  # type: ignore[return-value]  # noqa: SIM401

    @property
    def conditional(self) -> bool:
        """The learned text tokens depend on the image."""
        return self.prompts is not None and self.prompts.conditional

    def canonical(self, reads: Iterable[Read]) -> frozenset[Read]:
        """Reads in their canonical states, with what conditional texts need."""
        found = {r if r.tower in self.touched else dataclasses.replace(r, state="frozen") for r in reads}
        if self.conditional and any(r.tower == "text" and r.state != "frozen" for r in found):
            found |= self.canonical([Image()])
        return frozenset(found)

    def features(self, names: Sequence[str], templates: Sequence[str], batch: Batch | None, **options: Any) -> Features:
        """An empty ``Features``; ``fill`` and ``passes`` compute what is read."""
        f = Features(self.model, self.head, self.touched, names, templates, batch, **options)
        if batch is not None:
            f.raw.update(batch.known)
        return f

    # ---- features without gradients

    @torch.no_grad()
    def fill(self, f: Features, reads: Iterable[Read]) -> None:
        """Compute ``reads`` (canonical) of any state into ``f`` without gradients."""
        for p in self._waves(f, [read for read in reads if read not in f.raw]):
            p.give(_joined([self.encode(p, start) for start in _starts(p)]))

    def _waves(self, f: Features, reads: Sequence[Read]) -> Iterator[Pass]:
        """Texts, then images as soon as what their views read is there, then texts that depend on the images."""
        texts, images = ([read for read in reads if read.tower == tower] for tower in ("text", "image"))
        early = [read for read in texts if read.state == "frozen" or not self.conditional]
        yield from self._text_passes(f, early, SCORED_AT_ONCE)
        while images:
            ready = [read for read in images if self.canonical(read.view.reads) <= f.raw.keys()]
            if not ready:
                raise ValueError(f"views read each other in a circle: {images}")
            yield from self._image_passes(f, ready, None)
            images = [read for read in images if read not in f.raw]
        yield from self._text_passes(f, [read for read in texts if read not in early], SCORED_AT_ONCE)

    # ---- features with gradients

    def passes(self, f: Features, reads: Iterable[Read], known: dict[tuple[str, str], Tensor]) -> Iterator[Pass]:
        """The passes that tuned ``reads`` need: first the images, then the texts, each distinct text once.

        ``known``: texts of this step that another part of it has computed already, and where these are added.
        """
        tuned = [read for read in reads if read.state == "tuned" and read not in f.raw]
        yield from self._image_passes(f, [r for r in tuned if r.tower == "image"], self.chunks["image"])
        yield from self._text_passes(f, [r for r in tuned if r.tower == "text"], self.chunks["text"], known)

    def _image_passes(self, f: Features, reads: Sequence[Read], chunk: int | None) -> Iterator[Pass]:
        """One pass for each state, all views of it in one batch."""
        for state in _states(reads):
            mine = [read for read in reads if read.state == state]
            views = list(dict.fromkeys(sorted((read.view for read in mine), key=repr)))
            pixels = [f.pixels(view) for view in views]
            sizes = [len(images_BCHW) for images_BCHW in pixels]

            def give(out: Outputs, mine: Any = mine, views: Any = views, sizes: Any = sizes) -> None:
                for read in mine:
                    f.raw[read] = out[read.what].split(sizes)[views.index(read.view)]

            yield Pass(
                "image", state, torch.cat(pixels) if len(pixels) > 1 else pixels[0], give,
                (f.seed, *f.words, "image", state, *views), chunk, any(read.what == "patches" for read in mine),
                frozenset(read.what for read in mine),
            )  # fmt: skip

    def _text_passes(
        self,
        f: Features,
        reads: Sequence[Read],
        chunk: int | None,
        known: dict[tuple[str, str], Tensor] | None = None,
    ) -> Iterator[Pass]:
        """One pass for each state. Frozen texts are kept by their words for as long as this planner lives."""
        for state in _states(reads):
            mine = [read for read in reads if read.state == state]
            prompts = self.prompts if state != "frozen" else None
            slots = prompts is not None
            prompted = prompts.template if prompts else None
            tables = {read: read.view.texts(f, prompted) for read in mine if isinstance(read.view, TextView)}
            given = F.normalize(f.get(Image()).float(), dim=-1) if slots and self.conditional else None
            table = self._texts if state == "frozen" else {} if known is None or given is not None else known
            if len(self._texts) > _REMEMBERED:
                self._texts.clear()
            whats = sorted({read.what for read in mine})
            texts = list(dict.fromkeys(text for rows in tables.values() for row in rows for text in row))
            new = [text for text in texts if any((what, text) not in table for what in whats)]
            if chunk and len(new) > chunk:
                new.sort(key=len)  # chunks of like length: padding is not computed

            def give(
                out: Outputs, tables: Any = tables, table: Any = table, new: Any = new, given: Any = given
            ) -> None:
                for what, rows in out.items():
                    each = rows if given is None else rows.unflatten(0, (len(given), -1)).unbind(1)
                    table.update(zip([(what, text) for text in new], each, strict=True))
                for read, rows in tables.items():
                    found = torch.stack(
                        [table[read.what, text] for row in rows for text in row], 0 if given is None else 1
                    )
                    f.raw[read] = _means(found, len(rows), read) if read.what == "feature" else found

            if not new:
                give({})
                continue
            rows, repeated = new, None
            if given is not None:
                rows, repeated = new * len(given), given.repeat_interleave(len(new), 0)
            yield Pass(
                "text", state, rows, give, (f.seed, "text", state), chunk, wanted=frozenset(whats), given=repeated,
                slots=slots,
            )  # fmt: skip

    # ---- the towers

    def encode(self, p: Pass, start: int, given: Tensor | None = None) -> Outputs:
        """The rows of ``p`` from ``start`` on, one chunk of them, through the tower: raw outputs by name."""
        stop = start + (p.chunk or len(p.rows))
        rows = p.rows[start:stop]
        given = p.given if given is None else given
        self.calls[f"{p.tower} {p.state} calls"] += 1
        self.calls[f"{p.tower} {p.state} rows"] += len(rows)
        inputs = self._tokenize(tuple(rows), p.slots) if p.tower == "text" else rows
        prompts = self.prompts
        if given is not None and prompts is not None:
            prompts.given = given[start:stop]
        average = p.state == "average"
        wanted = () if p.state == "frozen" else p.wanted - {"feature", "patches"}
        mode = self.model.frozen() if p.state == "frozen" else contextlib.nullcontext()
        if average:  # without dropout
            mode = turned_off(self.model.modules(), "training")
        with seeded(*p.words, start), self.arithmetic(), mode:
            values = self.average if average else None
            return self.model.run(p.tower, inputs, patches=p.patches, values=values, wanted=wanted)

    def _tokenize(self, texts: tuple[str, ...], slots: bool) -> dict[str, Tensor]:
        """Tokens on the model's device; the last ones are kept, as class prompts are the same at each step."""
        key = slots, texts
        if key not in self._tokens:
            if len(self._tokens) >= 64:
                self._tokens.clear()
            tokens = self.model.tokenize(texts, slots=slots)
            self._tokens[key] = {name: ids.to(self.model.device) for name, ids in tokens.items()}
        return self._tokens[key]


class Made:
    """A pass that has been made with gradients. Its outputs are leaves; ``back`` takes their gradients on.

    So the loss flows back to features first, and each pass goes on for itself: from the graph it kept, or, in chunks,
    by being made again a chunk at a time (GradCache, Gao et al. 2021), which is exact for every loss.
    """

    def __init__(self, planner: Planner, p: Pass) -> None:
        self.planner, self.pass_ = planner, p
        self.given = None if p.given is None else p.given.detach().requires_grad_(p.given.requires_grad)
        starts = _starts(p)
        self.replayed = len(starts) > 1
        with torch.set_grad_enabled(not self.replayed):
            self.out = _joined([planner.encode(p, start, self.given) for start in starts])
        self.leaves = {what: rows.detach().requires_grad_(rows.is_floating_point()) for what, rows in self.out.items()}
        p.give(self.leaves)

    def back(self, keep: bool = False) -> None:
        """Add what the gradients of the leaves mean for the parameters; ``keep`` the graph for another time."""
        gradients = {what: leaf.grad for what, leaf in self.leaves.items() if leaf.grad is not None}
        if gradients and not self.replayed:
            torch.autograd.backward([self.out[what] for what in gradients], list(gradients.values()), retain_graph=keep)
        elif gradients:
            for start in _starts(self.pass_):
                out = self.planner.encode(self.pass_, start, self.given)
                stop = start + len(out["feature"])
                torch.autograd.backward([out[what] for what in gradients], [g[start:stop] for g in gradients.values()])
        for leaf in self.leaves.values():
            leaf.grad = None
        if self.given is not None and self.given.grad is not None:
            assert self.pass_.given is not None
            self.pass_.given.backward(self.given.grad, retain_graph=keep)
            self.given.grad = None


def _states(reads: Sequence[Read]) -> list[State]:
    return sorted({read.state for read in reads})


def _starts(p: Pass) -> range:
    return range(0, len(p.rows), p.chunk or max(1, len(p.rows)))


def _joined(outs: Sequence[Outputs]) -> Outputs:
    return outs[0] if len(outs) == 1 else {what: torch.cat([out[what] for out in outs]) for what in outs[0]}


def _means(texts_MD: Tensor, rows: int, read: Read) -> Tensor:
    """(..., rows T, D) features of texts -> (..., rows, D), the mean of each row's T texts."""
    texts_RTD = texts_MD.unflatten(-2, (rows, -1))
    if texts_RTD.shape[-2] > 1 and read.view.mean == "unit":  # type: ignore[attr-defined]
        texts_RTD = F.normalize(texts_RTD, dim=-1)
    return texts_RTD.squeeze(-2) if texts_RTD.shape[-2] == 1 else texts_RTD.mean(-2)
