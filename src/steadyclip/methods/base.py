"""What a method is: adapters (where parameters live), a head (how classes are told apart), an objective (what is
minimized), and streams (what further data it needs).

Nothing above this folder knows a method by name: registry, command line, trainer, report and tests see ``Method`` only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from steadyclip.adapters import AdapterSpec
from steadyclip.core.errors import UsageError
from steadyclip.core.files import sha256_of
from steadyclip.core.spec import Spec
from steadyclip.heads import HeadSpec, TextHead
from steadyclip.methods.average import Average
from steadyclip.methods.knobs import knobs_of
from steadyclip.methods.planner import Planner
from steadyclip.methods.recipe import Recipe
from steadyclip.objectives import CrossEntropy, Objective, OfStream, Read, Term, TextsOfStream, as_objective
from steadyclip.objectives.streams import StreamSpec
from steadyclip.objectives.terms import reads_of

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.models import DualEncoder


class Method(Spec):
    """Base of all methods. A subclass is a value whose plain fields are its knobs; so are those of its pieces.

    Attributes:
        name: registry id, as typed on the command line.
        summary: one line for `steadyclip methods`.
        source: paper (and equation), or "our reading of ...".
        adapters: what is added to the towers, or which of their weights are trained.
        head: how classes are told apart.
        average: a running average of what is trained.
        recipe: published training settings; None when nothing is trained by gradient steps.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    spelled: ClassVar[bool] = False

    adapters: tuple[AdapterSpec, ...] = ()
    head: HeadSpec = TextHead()
    average: Average | None = None
    recipe: Recipe | None = None

    def objective(self) -> Objective | Term:
        """What is minimized."""
        return CrossEntropy()

    def streams(self) -> Mapping[str, StreamSpec]:
        """Further data of each step, by the name that views read it under."""
        return {}

    # ---- on a model

    def attach(self, model: DualEncoder, classes: Sequence[str]) -> None:
        """Put the pieces on ``model`` and set ``requires_grad`` everywhere else to False.

        Raises:
            UsageError: knobs do not fit the model.
            ModelError: two pieces want the same place.
        """
        model.requires_grad_(False)
        for adapter in self.adapters:
            adapter.attach(model)
        model.head = self.head.build(model, classes).to(model.device)

    def planner(self, model: DualEncoder) -> Planner:
        """What computes features and logits of ``model``, to which this method is attached."""
        return Planner(model, model.head, self.touched)

    def merge(self, model: DualEncoder) -> None:
        """Fold what was trained into the plain weights and detach it. A head with rows of its own stays as it is."""
        model.merge_adapters()

    # ---- facts, computed from the pieces

    @property
    def touched(self) -> frozenset[str]:
        """Towers below whose features something is trained."""
        return frozenset().union(*(adapter.touches for adapter in self.adapters))

    @property
    def learns(self) -> bool:
        """There is something to train, by gradient steps or from frozen features."""
        return self.recipe is not None or self.head.solves

    @property
    def mergeable(self) -> bool:
        """``merge`` leaves plain weights with the same features, and the head is a plain one."""
        return self.head.mergeable and all(adapter.mergeable for adapter in self.adapters)

    @property
    def own_weights(self) -> bool:
        """Only the model's own weights are trained."""
        own = bool(self.adapters) and all(adapter.own_weights for adapter in self.adapters)
        return own and not self.head.learns

    @property
    def averages(self) -> bool:
        """What is trained can be averaged with the pretrained model: its own weights, or a head that starts from it."""
        own = all(adapter.own_weights for adapter in self.adapters)
        return self.learns and own and (self.head.starts_zero_shot or not self.head.learns)

    @property
    def whole_batch(self) -> bool:
        """Some term compares the images of a batch with each other."""
        return as_objective(self.objective()).pairs

    def reads(self, model: DualEncoder) -> frozenset[Read]:
        """All features that a training step needs, in canonical states."""
        return self.planner(model).canonical(reads_of(as_objective(self.objective()), model.head.reads()))

    def check(self) -> None:
        """See that every stream which is read is there, every stream is read, and steps have something to train.

        Raises:
            UsageError: one line naming the stream, or what is missing.
        """
        there = set(self.streams())
        reads = [read for _, term in as_objective(self.objective()).terms for read in term.reads]
        wanted = {read.view.stream for read in reads if isinstance(read.view, OfStream | TextsOfStream)}
        if missing := sorted(wanted - there):
            has = ", ".join(sorted(there)) or "none"
            raise UsageError(f"method {self.name!r}: a term reads the stream {missing[0]!r}; it provides {has}.")
        if unread := sorted(there - wanted):
            raise UsageError(f"method {self.name!r} provides the stream {unread[0]!r}, which no term reads.")
        if any(read.state == "average" for read in reads) and self.average is None:
            raise UsageError(f"method {self.name!r}: a term reads the average model, but no average is set.")
        if self.recipe is not None and not self.adapters and not self.head.learns:
            raise UsageError(f"method {self.name!r} has nothing to train: give it an adapter, or no recipe.")

    def check_model(self, model: DualEncoder, task: ImageTask) -> None:
        """See that what is trained on fits the model this method is attached to, before any training.

        Raises:
            UsageError: one line naming the piece: learned tokens and a class name do not fit the context, for instance.
        """
        if model.prompted is not None:
            model.tokenize([model.prompted.replace("{}", name) for name in task.classes], slots=True)

    # ---- knobs

    def with_pieces(self, knobs: dict[str, Any]) -> tuple[Method, dict[str, Any]]:
        """The method with those pieces that ``knobs`` give as text, as a composition can, and the other knobs."""
        return self, knobs

    @property
    def row(self) -> str:
        """The method as it is typed: its name, and the knobs that are not at their defaults."""
        usual = type(self)().knobs()
        changed = {knob: value for knob, value in self.knobs().items() if value != usual.get(knob)}
        typed = [f"{k}={':'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in changed.items()]
        return f"{self.name}[{','.join(typed)}]" if typed else self.name

    def knobs(self) -> dict[str, Any]:
        """Every knob of the method and its pieces as plain JSON values, by the shortest name that is its own."""
        return {name: _plain(knob.value(self)) for name, knob in knobs_of(self).items()}

    def files(self) -> dict[str, str]:
        """Knob -> 16 hex digits over the content, for each knob that names a file: a file of the same name with other
        content is another training.

        Raises:
            UsageError: no such file.
        """
        values = {name: knob.value(self) for name, knob in knobs_of(self).items()}
        files = {name: value for name, value in values.items() if isinstance(value, Path)}
        for name, file in files.items():
            if not file.is_file():
                raise UsageError(f"knob {name}={file} of {self.name!r} must be a file; there is none of that name.")
        return {name: _hash(file, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()}


def _plain(value: Any) -> Any:
    return value.as_posix() if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


@functools.lru_cache
def _hash(path: Path, size: int, changed: int) -> str:
    """Hash of a file; read once as long as its size and time of change are the same."""
    return sha256_of(path)[:16]
