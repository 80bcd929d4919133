"""What a method is: adapters (where parameters live), an objective (what is minimized), streams (what data it needs).

Nothing above this folder knows a method by name: registry, command line, trainer, report and tests see ``Method`` only.

Shapes in this project: B images in a batch, C classes, D feature width, N tokens, H W pixels.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import itertools
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from steadyclip.core.errors import SteadyClipError, UsageError, nearest
from steadyclip.evaluation.heads import Head, text_head
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder, Tokens


class NoHead(SteadyClipError):
    """The method cannot classify among these names (a linear probe and classes it never saw). Not a failure:
    the record keeps the reason and the table an empty cell."""


@dataclass
class Batch:
    """One training step's data, on the model's device.

    ``images_BCHW`` float pixels after the training transform; ``labels_B`` integer class labels; ``prompts`` the
    tokenized class prompts, one for each of the C classes, the same at every step: their text features are computed
    once per step, not once per image. ``streams`` holds one collated dict for each further stream of the method.

    For texts that change from step to step there are the names of the C ``classes``, all ``templates``, the ``keys`` of
    the B images, and ``seed``, which depends on the training's seed and the step only: where several processes share
    the step's images, what is drawn from it is the same in each. (Torch is seeded anew for every step too, but
    differently in each process.)
    """

    images_BCHW: Tensor
    labels_B: Tensor
    prompts: Tokens
    step: int
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    seed: int = 0


class Stream(Protocol):
    """A further source of training data: the trainer draws one batch from it at every step, in a seeded order.

    A stream with an attribute ``of_images`` that is True has one item for each training image, in their order, and
    gives the items of the step's images.
    """

    def __len__(self) -> int: ...

    def item(self, index: int, rng: Any) -> dict[str, Any]:
        """One sample; ``rng`` is a ``random.Random`` seeded from (seed, stream, epoch or step, index)."""
        ...

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Method:
    """Base of all methods. A subclass is a frozen dataclass whose fields are its knobs.

    Class attributes say what it is and what it promises; ``steadyclip.testing.check_method`` holds it to them.
    """

    name: ClassVar[str]
    """Registry id, as typed on the command line."""
    summary: ClassVar[str]
    """One line for `steadyclip methods`."""
    source: ClassVar[str]
    """Paper (and equation), or "our reading of ..."."""
    recipe: ClassVar[Recipe | None] = None
    """Published training settings; None when nothing is trained by gradient steps."""
    starts_frozen: ClassVar[bool] = True
    """At step 0 the features are the frozen model's, bit for bit."""
    mergeable: ClassVar[bool] = True
    """``merge`` leaves plain weights with the same features."""
    own_weights: ClassVar[bool] = False
    """The model's own weights are trained, so that they can be averaged with the pretrained ones."""
    uses_frozen_features: ClassVar[bool] = False
    """Learns by ``solve`` from the cached features of the frozen model instead of gradient steps on images."""
    whole_batch: ClassVar[bool] = False
    """The loss compares the images of a batch with each other: a batch cannot be computed in parts."""

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        """Attach what is trained and set ``requires_grad`` everywhere else to False."""
        model.requires_grad_(False)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Terms to minimize, already weighted: the trainer sums them and logs each by its name."""
        raise NotImplementedError(f"{self.name} is not trained by gradient steps")

    def solve(
        self, model: DualEncoder, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None, seed: int
    ) -> dict[str, Any]:
        """Fit what ``adapt`` attached from frozen features (B, D) and labels (B,); returns what it chose."""
        return {}

    def streams(self, model: DualEncoder, task: Any) -> Mapping[str, Stream]:
        """Further data of each step, by name, beside the labeled images."""
        return {}

    def head(self, model: DualEncoder, names: Sequence[str], templates: Sequence[str]) -> Head:
        """Classifier over ``names``. Default: mean of the normalized text features over ``templates``, normalized."""
        return text_head(model, names, templates)

    def merge(self, model: DualEncoder) -> None:
        """Fold what was trained into the plain weights and detach it."""
        model.merge_adapters()

    def require(self, knob: str, holds: bool, range_: str) -> None:
        """For ``__post_init__``: a clear line when a knob is out of its range.

        Raises:
            UsageError: ``holds`` is False.
        """
        if not holds:
            value = getattr(self, knob)
            shown = str(value) if isinstance(value, Path) else repr(value)
            raise UsageError(f"knob {knob}={shown} of method {self.name!r} must be {range_}.")

    def knobs(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            knob: value.as_posix() if isinstance(value, Path) else value
            for knob, value in dataclasses.asdict(self).items()
        }

    def files(self) -> dict[str, str]:
        """Knob -> 16 hex digits over the content, for each knob that names a file: a file of the same name with other
        content is another training.

        Raises:
            UsageError: no such file.
        """
        found = {}
        for knob, value in dataclasses.asdict(self).items():
            if isinstance(value, Path):
                self.require(knob, value.is_file(), "a file; there is none of that name")
                found[knob] = _content(value, value.stat().st_size, value.stat().st_mtime_ns)
        return found


@functools.lru_cache
def _content(path: Path, size: int, changed: int) -> str:
    """Hash of a file; read once as long as its size and time of change are the same."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


_REGISTRY: dict[str, type[Method]] = {}


M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Class decorator: the definition is the registry entry, and its ``name`` the id."""
    if cls.name in _REGISTRY:
        raise ValueError(f"two methods are named {cls.name!r}")
    _REGISTRY[cls.name] = cls
    return cls


def methods() -> dict[str, type[Method]]:
    """All registered methods by name."""
    return dict(sorted(_REGISTRY.items()))


def get_method(name: str, knobs: Mapping[str, Any] | None = None) -> Method:
    """The method ``name`` with ``knobs`` (values may be strings, as typed on a command line).

    Raises:
        UsageError: unknown method or knob, or a value that does not fit the knob's type.
    """
    if name not in _REGISTRY:
        raise UsageError(f"unknown method {name!r}.{nearest(name, _REGISTRY)} `steadyclip methods` lists them.")
    cls = _REGISTRY[name]
    types = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in (knobs or {}).items():
        if key not in fields:
            raise UsageError(
                f"method {name!r} has no knob {key!r}.{nearest(key, fields)} `steadyclip methods {name}` lists them."
            )
        values[key] = convert(name, key, value, types[key])
    return cls(**values)


def knob_help(cls: type[Method]) -> dict[str, str]:
    """Knob -> the text that stands below it in the class, or in the class that it is inherited from."""
    texts = {}
    for owner in reversed(cls.__mro__[: cls.__mro__.index(Method)]):
        definition = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        for knob, below in itertools.pairwise(definition.body):  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(knob, ast.AnnAssign) and isinstance(knob.target, ast.Name) and isinstance(below, ast.Expr):
                texts[knob.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return texts


def convert(method: str, knob: str, value: Any, kind: Any) -> Any:
    """``value``, maybe as typed on a command line, as ``kind``: literals, numbers, booleans, tuples, unions of them.

    Raises:
        UsageError: it does not fit.
    """
    wrong = UsageError(f"knob {knob}={value!r} of method {method!r} must be {_spell(kind)}.")
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value in options:
            return value
        raise wrong
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(convert(method, knob, part, options[0]) for part in parts)
    if options:  # a union: the first member that takes the value
        if value in (None, "none") and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return convert(method, knob, value, option)
                except UsageError:
                    continue
        raise wrong
    if kind is bool:
        spelled = {
            "true": True,
            "on": True,
            "yes": True,
            "1": True,
            "false": False,
            "off": False,
            "no": False,
            "0": False,
        }
        if str(value).lower() in spelled:
            return spelled[str(value).lower()]
        raise wrong
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise wrong from None


def _spell(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if options:
        return " or ".join(_spell(o) for o in options if o is not Ellipsis)
    words = {Path: "a file", int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    return words.get(kind, "text")
