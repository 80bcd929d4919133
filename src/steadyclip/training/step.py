"""One optimizer step: the gradients of an objective, over parts of a batch and over processes.

The loss flows back to the features first; then each tower pass carries its features' gradients back to the parameters.
This makes large batches on small devices, and losses that compare the images of all processes, exact for every method.

Shapes: B images in a batch of this process, G of all processes, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from steadyclip.methods.base import Method
from steadyclip.methods.planner import Made, Planner
from steadyclip.models import DualEncoder
from steadyclip.models.sharding import is_split, part_like
from steadyclip.objectives import Batch, Features, as_objective

Back = Callable[[Iterable[Tensor], bool], None]
"""Carries gradients of the sum of some terms back to the features; True keeps the graph for another time."""


class Step:
    """Computes the gradients of a method's objective into ``.grad`` of the trained parameters.

    Attributes:
        planner: makes the features.
        reads: all features that a step needs, in canonical states.
        trained: parameters by name.
        split: their weights are split over the processes, which then make all passes together.
    """

    def __init__(
        self, method: Method, model: DualEncoder, classes: Sequence[str], templates: Sequence[str], accumulate: int = 1
    ) -> None:
        """``accumulate``: parts that a batch goes through in; the gradient is that of the whole batch."""
        self.model, self.classes, self.templates, self.accumulate = model, tuple(classes), tuple(templates), accumulate
        self.objective = as_objective(method.objective())
        self.planner: Planner = method.planner(model)
        self.reads = method.reads(model)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.split = any(map(is_split, self.trained.values()))
        if self.split:
            self.planner.most = self._most

    def gradients(self, batch: Batch, seed: int, whole: int | None = None) -> dict[str, Tensor]:
        """Gradients of one step.

        Args:
            batch: the part of the batch that belongs to this process.
            seed: of the step, the same in all processes.
            whole: images in the step's batch over all processes, by default those of this process. Images that could
                not be read count here, too.

        Returns:
            The weighted terms by label, this process' share of them.
        """
        world, rank = processes()
        # Pairs and groups need the whole batch before any gradient; and processes may differ in their number of pieces.
        replay = self.objective.pairs or bool(self.objective.groups) or self.split
        pieces = [batch] if replay or self.accumulate == 1 else _parts(batch, self.accumulate)
        if replay and self.accumulate > 1:
            chunk = -(-len(batch.labels_B) // self.accumulate)
            texts_of_images = any(read.tower == "text" and read.view.rows == "image" for read in self.reads)
            self.planner.chunks = {"image": chunk, "text": chunk if texts_of_images else None}
        whole = whole or len(batch.labels_B)
        known: dict[tuple[str, str], Tensor] = {}  # class texts go through once a step, not once a part
        texts: list[Made] = []
        totals: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            words = (rank, number) if len(pieces) > 1 or world > 1 else ()
            f = self.planner.features(self.classes, self.templates, piece, seed=seed, words=words)
            self.planner.fill(f, [read for read in self.reads if read.state != "tuned"])
            made = [Made(self.planner, p) for p in self.planner.passes(f, self.reads, known)]
            if self.objective.pairs and world > 1:
                terms, back = self._over_processes(f, whole, world, rank)
                share = 1 / world
            else:
                terms, back, share = self._terms(f, whole), _sum_back, 1.0
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + share * term.detach()
            if self.objective.groups:
                self._grouped(terms, made, back)
                return totals
            back(terms.values(), False)
            if len(pieces) > 1 and not self.planner.conditional:
                texts += [m for m in made if m.pass_.tower == "text"]
                made = [m for m in made if m.pass_.tower == "image"]
            for each in reversed(made):
                each.back()
        for each in reversed(texts):
            each.back()
        self._all_reduce()
        return totals

    def _most(self, number: int) -> int:
        """The largest ``number`` of all processes."""
        numbers = torch.tensor(number, device=self.model.device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def _terms(self, f: Features, whole: int) -> dict[str, Tensor]:
        """Means over the images of ``f``, by their share of the ``whole`` batch."""
        assert f.batch is not None
        share = len(f.batch.labels_B) / whole
        with self.planner.arithmetic():
            return {name: share * term for name, term in self.objective(f).items()}

    def _over_processes(self, f: Features, whole: int, world: int, rank: int) -> tuple[dict[str, Tensor], Back]:
        """The terms of the whole batch, computed from the rows of all processes as new leaves, and the way back: each
        process takes the gradients of its own rows, and its share of the gradients of what all have in common."""
        g, sizes = _gathered(f, world)

        def back(chosen: Iterable[Tensor], keep: bool) -> None:
            _sum_back(chosen, keep)
            for parameter in self.trained.values():  # heads, scale and weights: each process has all of their gradient
                if parameter.grad is not None:
                    parameter.grad /= world
            for read, rows in g.raw.items():
                if rows.grad is not None and f.raw[read].requires_grad:
                    mine = rows.grad.split(sizes[read])[rank] if read in sizes else rows.grad / world
                    f.raw[read].backward(mine, retain_graph=True)
                rows.grad = None

        return self._terms(g, whole), back

    def _grouped(self, terms: Mapping[str, Tensor], made: Sequence[Made], back: Back) -> None:
        """One gradient combined from those of several groups of terms, each summed over the processes first."""
        assert self.objective.combine is not None
        found: list[dict[str, Tensor]] = []
        names = iter(terms)
        for number, group in enumerate(self.objective.groups, start=1):
            last = number == len(self.objective.groups)
            back([terms[next(names)] for _ in group.terms], not last)
            for each in reversed(made):
                each.back(keep=not last)
            self._all_reduce()
            found.append({name: p.grad.clone() for name, p in self.trained.items() if p.grad is not None})
            for parameter in self.trained.values():
                parameter.grad = None
        for name, parameter in self.trained.items():
            if any(name in gradients for gradients in found):
                zero = torch.zeros_like(parameter)
                parameter.grad = self.objective.combine([gradients.get(name, zero) for gradients in found])

    def _all_reduce(self) -> None:
        """Sum the gradients over the processes, in one exchange for each dtype. A parameter without a gradient in any
        process keeps none, so that weight decay does not move it."""
        if (world := processes()[0]) == 1:
            return
        for parameter in self.trained.values():
            if is_split(parameter) and parameter.grad is not None:  # the passes have left the mean
                parameter.grad *= world
        own_whole = [parameter for parameter in self.trained.values() if not is_split(parameter)]
        for dtype in dict.fromkeys(p.dtype for p in own_whole):
            parameters = [p for p in own_whole if p.dtype == dtype]
            there = parameters[0].new_tensor([float(p.grad is not None) for p in parameters])
            own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([*(gradient.flatten() for gradient in own), there])
            dist.all_reduce(flat)
            *whole, there = flat.split([*(p.numel() for p in parameters), len(parameters)])
            for parameter, gradient, count in zip(parameters, whole, there.tolist(), strict=True):
                parameter.grad = gradient.view_as(parameter) if count else None


class RunningAverage:
    """The running average of a step's trained parameters, kept where the planner finds it for reads of that state.

    Does nothing if the method wants no average.

    Attributes:
        values: the average by parameter name.
    """

    def __init__(self, method: Method, step: Step, steps: int, steps_per_epoch: int) -> None:
        self.spec, self.step, self.steps = method.average, step, steps
        self.values: dict[str, Tensor] = {}
        if self.spec:
            self.every = 1 if self.spec.per == "step" else steps_per_epoch
            self.rates = self.spec.rates(math.ceil(steps / self.every))
            self.values = step.planner.average = {name: p.detach().clone() for name, p in step.trained.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After ``done`` optimizer steps; the last of them also ends an incomplete epoch."""
        if self.spec and (done % self.every == 0 or done == self.steps):
            for name, value in self.values.items():
                value.lerp_(self.step.trained[name], self.rates[math.ceil(done / self.every)])

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the trained parameters by their average, if that is what the method wants as its result."""
        if self.spec and self.spec.final:
            for name, value in self.values.items():
                self.step.trained[name].copy_(value)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Continue from ``values``."""
        for name, value in self.values.items():
            value.copy_(part_like(value, values[name]))


def _sum_back(terms: Iterable[Tensor], keep: bool) -> None:
    torch.stack([term.float() for term in terms]).sum().backward(retain_graph=keep)


def processes() -> tuple[int, int]:
    """How many there are, and which one this is."""
    there = dist.is_available() and dist.is_initialized()
    return (dist.get_world_size(), dist.get_rank()) if there else (1, 0)


def _parts(batch: Batch, parts: int) -> list[Batch]:
    """The batch cut as ``torch.chunk`` cuts. Streams are cut in proportion, as they may have more rows than there are
    readable images; what has no rows is in every part."""
    count = len(batch.labels_B)

    def cut(value: Any, start: int, stop: int) -> Any:
        if isinstance(value, Mapping):
            return {key: cut(item, start, stop) for key, item in value.items()}
        if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim):
            return value[len(value) * start // count : len(value) * stop // count]
        return value

    pieces = []
    for places in torch.arange(count).chunk(parts):
        at = int(places[0]), int(places[-1]) + 1
        known = {read: cut(rows, *at) for read, rows in batch.known.items()}
        pieces.append(Batch(cut(batch.labels_B, *at), cut(batch.keys, *at), cut(batch.images_BCHW, *at), known,
                            cut(batch.streams, *at)))  # fmt: skip
    return pieces


def _gathered(f: Features, world: int) -> tuple[Features, dict[Any, list[int]]]:
    """``f`` with the rows and labels of all processes, as leaves; and how many rows each process gave."""
    assert f.batch is not None
    sizes: dict[Any, list[int]] = {}

    def gather(rows: Tensor, key: Any = None) -> Tensor:
        """Rows of all processes by rank. Their counts differ where an image could not be read."""
        counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes[key] = [int(count) for count in counts]
        padded = torch.cat([rows, rows.new_zeros(max(sizes[key]) - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes[key], strict=True)])

    streams = {name: {**stream, "labels_B": gather(stream["labels_B"])} if "labels_B" in stream else stream
               for name, stream in sorted(f.batch.streams.items())}  # fmt: skip
    whole = Batch(gather(f.batch.labels_B), streams=streams)
    g = Features(f.model, f.head, f.touched, f.names, f.templates, whole, seed=f.seed, words=f.words)
    for read in sorted(f.raw, key=repr):  # in one order everywhere
        rows = f.raw[read].detach()
        if read.view.rows == "image" or (read.tower == "text" and rows.ndim == 3):  # texts of each image
            rows = gather(rows, read)
        g.raw[read] = rows.requires_grad_(f.raw[read].requires_grad)
    return g, sizes
