"""Makes the features that a method reads: plans tower passes, each feature once, and takes gradients back through them.

The only place that calls a tower for a method. It knows no method, term or head by name, and one adapter: ``prompts``,
whose learned tokens decide how texts are tokenized.

Shapes: B images in a batch, C classes, M distinct texts, T texts of a row, D feature width.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.core.precision import tf32
from steadyclip.heads import Head
from steadyclip.models import DualEncoder
from steadyclip.models.encoder import Side
from steadyclip.models.switches import turned_off
from steadyclip.models.trunk import Trunk, untouched
from steadyclip.objectives.features import Batch, Features, Image, Read, State, TextView, seeded

if TYPE_CHECKING:
    from steadyclip.adapters.prompts import PromptTokens

SCORED_AT_ONCE = 256
"""Texts in a pass without gradients: 1000 names by 80 templates must not become one batch of 80,000 texts."""
TRAINED_AT_ONCE, PART = 256, 128
"""Texts whose graph is kept in one piece; more go through in parts, twice, so that memory does not grow with them."""
_REMEMBERED = 200_000
"""Frozen texts whose features are kept."""
_PROMPTS = 64
"""Lists of texts whose tokens are kept."""

Outputs = dict[str, Tensor]
TextRows = dict[tuple[str, str], Tensor]
"""(output, text) -> its row."""


@dataclass
class Pass:
    """Rows that go through a tower in one state.

    Attributes:
        rows: pixels, or texts.
        give: hands the outputs to the reads.
        words: what the pass is seeded by, beside the start of the chunk.
        wanted: names of the outputs.
        chunk: rows at once; None takes all. With gradients, a pass in chunks is made twice: see ``Made``.
        given: what learned tokens depend on, one row for each text.
        slots: the texts follow learned tokens.
        trunk: shares the blocks below what is attached with the passes of other states over the same rows.
        turns: times that it goes through the tower at least, as often as in other processes; see ``Planner.most``.
    """

    tower: Side
    state: State
    rows: Any
    give: Callable[[Outputs], None]
    words: tuple[object, ...]
    wanted: frozenset[str]
    chunk: int | None
    given: Tensor | None = None
    slots: bool = False
    trunk: Trunk | None = None
    turns: int = 1

    @property
    def starts(self) -> list[int]:
        """Where its chunks start."""
        return list(range(0, len(self.rows), self.chunk or len(self.rows)))

    @property
    def idle(self) -> int:
        """How often the first chunk goes through once more, for nothing."""
        return max(0, self.turns - len(self.starts))


class Planner:
    """The passes of one model with a method's pieces on it.

    Attributes:
        head: tells classes apart.
        touched: towers below whose features something is trained.
        calls: passes and rows so far, as ``{"image tuned calls": 3, "image tuned rows": 96, ...}``.
        average: the running average of what is trained, by parameter name, while there is one.
        arithmetic: entered around every forward pass.
        chunks: by tower, rows that go through with gradients at once; None keeps one graph of the whole pass, up to
            ``TRAINED_AT_ONCE`` texts.
        most: a number of this process -> the largest of all. A model that is split over processes needs all of them in
            each pass, so there it asks the others; a model of one's own does not need to.
    """

    def __init__(self, model: DualEncoder, head: Head, touched: frozenset[str]) -> None:
        self.model, self.head, self.touched = model, head, touched
        self.calls: Counter[str] = Counter()
        self.average: dict[str, Tensor] | None = None
        self.arithmetic: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self.chunks: dict[str, int | None] = {"image": None, "text": None}
        self.most: Callable[[int], int] = lambda own: own
        self._tokens: dict[tuple[tuple[str, ...], bool], dict[str, Tensor]] = {}
        self._frozen_texts: TextRows = {}

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
        found = {read.canonical(self.touched) for read in reads}
        if self.conditional and any(read.tower == "text" and read.state != "frozen" for read in found):
            found.add(Image().canonical(self.touched))
        return frozenset(found)

    def features(self, names: Sequence[str], templates: Sequence[str], batch: Batch | None, **options: Any) -> Features:
        """A ``Features`` with only what the batch knows; ``fill`` and ``passes`` compute what is read."""
        f = Features(self.model, self.head, self.touched, names, templates, batch, **options)
        if batch is not None:
            f.raw.update(batch.known)
        return f

    @torch.no_grad()
    def fill(self, f: Features, reads: Iterable[Read], known: TextRows | None = None) -> None:
        """Compute ``reads`` (canonical) of any state into ``f`` without gradients.

        ``known``: tuned texts that have been computed since the weights changed, and where these are added.
        """
        for p in self._waves(f, [read for read in reads if read not in f.raw], known):
            p.give(_joined([self.encode(p, start) for start in p.starts]))

    def passes(self, f: Features, reads: Iterable[Read], known: TextRows) -> Iterator[Pass]:
        """The passes that tuned ``reads`` need: first the images, then the texts, each distinct text once.

        ``known``: texts of this step that another part of it has computed already, and where these are added.
        """
        images, texts = (
            [read for read in reads if read.state == "tuned" and read.tower == tower and read not in f.raw]
            for tower in ("image", "text")
        )
        for p in itertools.chain(
            self._image_passes(f, images, self.chunks["image"]),
            self._text_passes(f, texts, self.chunks["text"], known),
        ):
            p.turns = self.most(len(p.starts))
            yield p

    def _waves(self, f: Features, reads: Sequence[Read], known: TextRows | None) -> Iterator[Pass]:
        """Texts, then images as soon as what their views read is there, then texts that depend on the images."""
        texts, images = ([read for read in reads if read.tower == tower] for tower in ("text", "image"))
        early = [read for read in texts if read.state == "frozen" or not self.conditional]
        yield from self._text_passes(f, early, SCORED_AT_ONCE, known)
        while images:
            ready = [read for read in images if self.canonical(read.view.reads) <= f.raw.keys()]
            if not ready:
                raise ValueError(f"views read each other in a circle: {images}")
            yield from self._image_passes(f, ready, None)
            images = [read for read in images if read not in f.raw]
        yield from self._text_passes(f, [read for read in texts if read not in early], SCORED_AT_ONCE)

    def _image_passes(self, f: Features, reads: Sequence[Read], chunk: int | None) -> Iterator[Pass]:
        for state, same in _by_state(reads):
            yield self._image_pass(f, state, same, chunk)

    def _image_pass(self, f: Features, state: State, reads: Sequence[Read], chunk: int | None) -> Pass:
        """All views of one state in one batch."""
        views = sorted({read.view for read in reads}, key=repr)
        pixels = [f.pixels(view) for view in views]
        sizes = [len(images_BCHW) for images_BCHW in pixels]

        def give(out: Outputs) -> None:
            for read in reads:
                f.raw[read] = out[read.what].split(sizes)[views.index(read.view)]

        words = (f.seed, *f.words, "image", state, *views)
        rows = f.once(("rows", *views), lambda: torch.cat(pixels) if len(pixels) > 1 else pixels[0])
        trunk = f.once(("trunk", *views), self._trunk)
        return Pass("image", state, rows, give, words, frozenset(read.what for read in reads), chunk, trunk=trunk)

    def _trunk(self) -> Trunk | None:
        tower = self.model.image_tower
        depth = 0 if self.model.compiled else untouched(self.model, tower)  # blocks are not skipped in a compiled graph
        return Trunk(tower, depth) if depth else None

    def _text_passes(
        self, f: Features, reads: Sequence[Read], chunk: int | None, known: TextRows | None = None
    ) -> Iterator[Pass]:
        if len(self._frozen_texts) > _REMEMBERED:
            self._frozen_texts.clear()
        for state, same in _by_state(reads):
            table = self._frozen_texts if state == "frozen" else known if known is not None and state == "tuned" else {}
            p = self._text_pass(f, state, same, chunk, table)
            if p.rows:
                yield p
            else:  # all of them are known
                p.give({})

    def _text_pass(self, f: Features, state: State, reads: Sequence[Read], chunk: int | None, table: TextRows) -> Pass:
        """Each distinct text of one state that ``table`` does not have yet; its row is added there."""
        prompted = None if state == "frozen" else self.model.prompted
        given_BD = None
        if prompted is not None and self.conditional:  # each image has texts of its own
            given_BD, table = F.normalize(f.get(Image()).float(), dim=-1), {}
        texts = {read: read.view.texts(f, prompted) for read in reads if isinstance(read.view, TextView)}
        wanted = frozenset(read.what for read in reads)
        distinct = dict.fromkeys(text for rows in texts.values() for row in rows for text in row)
        new = [text for text in distinct if any((what, text) not in table for what in wanted)]
        if chunk is None and len(new) > TRAINED_AT_ONCE:
            chunk = PART
        if chunk and len(new) > chunk:
            new.sort(key=len)  # chunks of like length: padding is not computed

        def give(out: Outputs) -> None:
            for what, rows in out.items():
                each = rows if given_BD is None else rows.unflatten(0, (len(given_BD), -1)).unbind(1)
                table.update(zip([(what, text) for text in new], each, strict=True))
            for read, rows in texts.items():
                found = torch.stack(
                    [table[read.what, text] for row in rows for text in row], 0 if given_BD is None else 1
                )
                f.raw[read] = _means(found, len(rows), read) if read.what == "feature" else found

        words, slots = (f.seed, "text", state), prompted is not None
        if given_BD is None:
            by_class = slots and self.prompts is not None and self.prompts.by_class
            given_MD = self._by_hand(f, texts, new) if by_class and new else None
            return Pass("text", state, new, give, words, wanted, chunk, given_MD, slots)
        given_MD = given_BD.repeat_interleave(len(new), 0)
        return Pass("text", state, new * len(given_BD), give, words, wanted, chunk, given_MD, slots)

    @torch.no_grad()
    def _by_hand(self, f: Features, texts: Mapping[Read, list[list[str]]], new: Sequence[str]) -> Tensor:
        """(M, D), unit frozen features of the ``new`` texts with the data set's prompt in place of learned tokens."""
        by_hand: dict[str, str] = {}
        for read, rows in texts.items():
            assert isinstance(read.view, TextView)
            for learned, own in zip(rows, read.view.texts(f, f.templates[0]), strict=True):
                by_hand.update(zip(learned, own, strict=True))
        table = self._frozen_texts
        if missing := [text for text in dict.fromkeys(by_hand.values()) if ("feature", text) not in table]:

            def give(out: Outputs) -> None:
                table.update(zip([("feature", text) for text in missing], out["feature"], strict=True))

            words = (f.seed, "text", "frozen")
            p = Pass("text", "frozen", missing, give, words, frozenset({"feature"}), SCORED_AT_ONCE)
            p.give(_joined([self.encode(p, start) for start in p.starts]))
        return F.normalize(torch.stack([table["feature", by_hand[text]] for text in new]).float(), dim=-1)

    def encode(self, p: Pass, start: int, given: Tensor | None = None) -> Outputs:
        """The rows of ``p`` from ``start`` on, one chunk of them, through the tower: raw outputs by name."""
        at = slice(start, start + (p.chunk or len(p.rows)))
        rows = p.rows[at]
        self.calls[f"{p.tower} {p.state} calls"] += 1
        self.calls[f"{p.tower} {p.state} rows"] += len(rows)
        inputs = self._tokenized(tuple(rows), p.slots) if p.tower == "text" else rows
        given = p.given if given is None else given
        if given is not None and self.prompts is not None:
            self.prompts.given = given[at]
        values, mode, wanted = None, contextlib.nullcontext(), p.wanted - {"feature", "patches"}
        if p.state == "frozen":
            mode, wanted = self._frozen(), frozenset()
        elif p.state == "average":  # without dropout
            values, mode = self.average, turned_off(self.model.modules(), "training")
        trunk = p.trunk.shared() if p.trunk and len(p.starts) == 1 else contextlib.nullcontext()
        with seeded(*p.words, start), self.arithmetic(), mode, trunk:
            return self.model.run(p.tower, inputs, patches="patches" in p.wanted, values=values, wanted=wanted)

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        with self.model.frozen(), tf32(self.model.device):
            yield

    def _tokenized(self, texts: tuple[str, ...], slots: bool) -> dict[str, Tensor]:
        """Tokens on the model's device; class prompts are the same at each step, and remembered.

        A `functools.lru_cache` around a method would refer to the planner, and so keep the model until the garbage
        collector comes by, which a full GPU does not call.
        """
        found = self._tokens.pop((texts, slots), None)
        if found is None:
            if len(self._tokens) == _PROMPTS:
                del self._tokens[next(iter(self._tokens))]  # what was not asked for the longest
            tokens = self.model.tokenize(texts, slots=slots)
            found = {name: ids.to(self.model.device) for name, ids in tokens.items()}
        self._tokens[texts, slots] = found
        return found


class Made:
    """A pass that has been made with gradients. Its outputs are leaves; ``back`` takes their gradients on.

    So the loss flows back to features first, and each pass goes on for itself: from the graph it kept, or, in chunks,
    by being made again a chunk at a time (GradCache, Gao et al. 2021), which is exact for every loss.
    """

    def __init__(self, planner: Planner, p: Pass) -> None:
        self.planner, self.pass_ = planner, p
        self.given = None if p.given is None else p.given.detach().requires_grad_(p.given.requires_grad)
        self.replayed = p.turns > 1
        with torch.set_grad_enabled(not self.replayed):
            self.out = _joined([planner.encode(p, start, self.given) for start in p.starts])
            for _ in range(p.idle):
                planner.encode(p, 0, self.given)
        self.leaves = {what: rows.detach().requires_grad_(rows.is_floating_point()) for what, rows in self.out.items()}
        p.give(self.leaves)

    def back(self, keep: bool = False) -> None:
        """Add what the gradients of the leaves mean for the parameters; ``keep`` the graph for another time."""
        gradients = {what: leaf.grad for what, leaf in self.leaves.items() if leaf.grad is not None}
        if gradients and not self.replayed:
            torch.autograd.backward([self.out[what] for what in gradients], list(gradients.values()), retain_graph=keep)
        elif gradients:
            for start, share in [*((start, 1) for start in self.pass_.starts), *[(0, 0)] * self.pass_.idle]:
                out = self.planner.encode(self.pass_, start, self.given)
                at = slice(start, start + len(out["feature"]))
                torch.autograd.backward(
                    [out[what] for what in gradients], [share * rows[at] for rows in gradients.values()]
                )
        for leaf in self.leaves.values():
            leaf.grad = None
        if self.given is not None and self.given.grad is not None:
            assert self.pass_.given is not None
            self.pass_.given.backward(self.given.grad, retain_graph=keep)
            self.given.grad = None


def _by_state(reads: Sequence[Read]) -> Iterator[tuple[State, list[Read]]]:
    states: list[State] = sorted({read.state for read in reads})
    for state in states:
        yield state, [read for read in reads if read.state == state]


def _joined(outs: Sequence[Outputs]) -> Outputs:
    return outs[0] if len(outs) == 1 else {what: torch.cat([out[what] for out in outs]) for what in outs[0]}


def _means(texts_MD: Tensor, rows: int, read: Read) -> Tensor:
    """(..., rows T, D) features of texts -> (..., rows, D), the mean of each row's T texts."""
    texts_RTD = texts_MD.unflatten(-2, (rows, -1))
    if texts_RTD.shape[-2] == 1:
        return texts_RTD.squeeze(-2)
    unit = read.view.mean == "unit"  # type: ignore[attr-defined]
    return (F.normalize(texts_RTD, dim=-1) if unit else texts_RTD).mean(-2)
