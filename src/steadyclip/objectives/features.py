"""What terms, heads and views can read: features of images and texts, named by tower, view and state.

A method declares its reads; the planner computes each feature once and hands it over through ``Features``.

Shapes: B images in a batch, C classes, M texts, T texts of a row, D feature width, Y X grid of patches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.core.seeds import step_seed
from steadyclip.core.spec import Spec
from steadyclip.data.cutout import attentive_cutout, cutout

if TYPE_CHECKING:
    from steadyclip.models import DualEncoder

State = Literal["tuned", "frozen", "average"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class Batch:
    """The data of one step, or of one part of it, on the model's device.

    Attributes:
        labels_B: integer class labels.
        keys: of the B images.
        images_BCHW: pixels after the transform, uint8 or normalized; None where every image feature is known already.
        known: features that need no pass, raw rows by read: from the training's cache, for instance.
        streams: one collated dict for each further stream of the method.
    """

    labels_B: Tensor
    keys: tuple[str, ...] = ()
    images_BCHW: Tensor | None = None
    known: Mapping[Read, Tensor] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class View(Spec):
    """An input of a tower, by value: terms with equal views share the pixels and the pass.

    Attributes:
        tower: "image" or "text".
        rows: "image": one row for each image of the step (split over processes, and into parts), or "class".
        finite: the same image always gives the same pixels, but for the training's augmentation; so what the frozen
            model makes of it may be cached.
        reads: gradient-free features that the view is made from.
    """

    tower: ClassVar[str] = "image"
    rows: ClassVar[str] = "image"
    finite: ClassVar[bool] = False
    reads: ClassVar[tuple[Read, ...]] = ()

    def pixels(self, f: Features) -> Tensor:
        """(rows, C, H, W), uint8 or normalized; what torch's generator draws here is seeded by step and view."""
        raise NotImplementedError


class Plain(View):
    """The images of the batch, as the training's augmentation leaves them."""

    finite: ClassVar[bool] = True

    def pixels(self, f: Features) -> Tensor:
        assert f.batch is not None
        assert f.batch.images_BCHW is not None, "pixels were asked for but not loaded"
        return f.batch.images_BCHW


class OfStream(View):
    """The images of a stream: its ``images_BCHW``."""

    stream: str = ""

    def pixels(self, f: Features) -> Tensor:
        return f.stream(self.stream)["images_BCHW"]


class Cutout(View):
    """The images with a random square cut out; ``side`` is its share of the image's shorter side."""

    side: float = 0.5

    def pixels(self, f: Features) -> Tensor:
        assert f.batch is not None
        return cutout(f.pixels(Plain()), self.side, [f"{f.seed}/cutout/{key}" for key in f.batch.keys])


class TextView(View):
    """Texts of a tower pass: T for each row, whose features become one as their mean.

    Attributes:
        mean: of unit vectors (CLIP's prompt ensemble) or of raw ones.
    """

    tower: ClassVar[str] = "text"

    mean: Literal["unit", "raw"] = "unit"

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        """Rows of T texts. ``prompted``: what follows the learned tokens (``{}`` for the name), if there are some."""
        raise NotImplementedError


class Classes(TextView):
    """One row for each class name.

    Attributes:
        templates: prompts with ``{}``; None: the first of the data set, "all": all of them.
    """

    rows: ClassVar[str] = "class"

    templates: tuple[str, ...] | Literal["all"] | None = None

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        chosen = self.templates if prompted is None else (prompted,)
        templates = f.templates[:1] if chosen is None else f.templates if chosen == "all" else chosen
        return [[template.replace("{}", name) for template in templates] for name in f.names]


class Contexts(TextView):
    """One row for each template, without a name: "a sketch of a"."""

    rows: ClassVar[str] = "class"

    templates: tuple[str, ...] = ()

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        return [[" ".join(template.replace("{}", " ").split())] for template in self.templates]


class RandomTexts(TextView):
    """Rows of eight random words of three letters, other ones in each step; ``number`` of them."""

    rows: ClassVar[str] = "class"

    number: int = 80

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        rng = random.Random(f"{f.seed}/random texts")
        return [[" ".join("".join(rng.choices(_LETTERS, k=3)) for _ in range(8))] for _ in range(self.number)]


class DrawnPrompts(TextView):
    """A prompt of the class of each of the B images, the same however many processes share the step.

    Attributes:
        draw: one of the data set's templates at random for each step or each image, or always the first.
        again: another draw than without.
    """

    draw: Literal["step", "image", "first"] = "step"
    again: bool = False

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        assert f.batch is not None
        choices = f.templates[:1] if self.draw == "first" else f.templates
        seeds = [f"{f.seed}/{self.again}/{key if self.draw == 'image' else ''}" for key in f.batch.keys]
        drawn = [random.Random(seed).choice(choices) for seed in seeds]
        labels = f.batch.labels_B.tolist()
        return [[(prompted or t).replace("{}", f.names[y])] for t, y in zip(drawn, labels, strict=True)]


class TextsOfStream(TextView):
    """The ``texts`` of a stream, one a row."""

    stream: str = ""

    def texts(self, f: Features, prompted: str | None) -> list[list[str]]:
        return [[(prompted or "{}").replace("{}", text)] for text in f.stream(self.stream)["texts"]]


class Read(Spec):
    """The name of a feature. Made by ``Image`` and ``Text``.

    Attributes:
        what: "feature" (rows, D); "patches" (rows, Y, X, D); or a name that an adapter emits, such as "delta"
            (what it added to the MLPs).
    """

    tower: str
    view: View
    state: State = "tuned"
    what: str = "feature"

    def canonical(self, touched: Container[str]) -> Read:
        """A tower below which nothing is trained has one state. Which features can be cached follows from this."""
        return self if self.tower in touched else dataclasses.replace(self, state="frozen")


def Image(view: View | None = None, state: State = "tuned", what: str = "feature") -> Read:
    """A read of the image tower; by default the tuned feature of the plain images."""
    return Read("image", view or Plain(), state, what)


def Text(view: TextView | None = None, state: State = "tuned") -> Read:
    """A read of the text tower; by default the tuned feature of the class prompts, (C, D)."""
    return Read("text", view or Classes(), state)


class AttentiveCutout(Cutout):
    """The images with the square cut out where the frozen model sees the true class most."""

    reads: ClassVar[tuple[Read, ...]] = (Image(state="frozen", what="patches"), Text(state="frozen"))

    def pixels(self, f: Features) -> Tensor:
        patch_BYXD, text_BD = f[self.reads[0]], f[self.reads[1]][f.labels()]
        return attentive_cutout(f.pixels(Plain()), torch.einsum("byxd,bd->byx", patch_BYXD, text_BD), self.side)


class Features:
    """The one argument of terms, heads and views: features by read, and what goes with them.

    In training it is bound to one step (or a part of it), in scoring to some images and the names to tell apart.

    Attributes:
        model: whose features they are.
        names: the C classes to tell apart.
        templates: prompts of the data set.
        batch: images, labels and streams; None where only texts are read.
        seed: of the step; the same in all processes.
        raw: rows as the towers gave them, by canonical read.
        scoring: whether this is an evaluation rather than a training.
    """

    def __init__(
        self,
        model: DualEncoder,
        head: Any,
        touched: frozenset[str],
        names: Sequence[str],
        templates: Sequence[str],
        batch: Batch | None = None,
        *,
        seed: int = 0,
        words: tuple[object, ...] = (),
        scoring: bool = False,
    ) -> None:
        """``touched``: towers with something to train below their features; ``words``: further words of the seeds of
        pixels, such as process and part."""
        self.model, self.head, self.touched = model, head, touched
        self.names, self.templates, self.batch = tuple(names), tuple(templates), batch
        self.seed, self.words, self.scoring = seed, words, scoring
        self.raw: dict[Read, Tensor] = {}
        self._memo: dict[Any, Any] = {}

    def canonical(self, read: Read) -> Read:
        """``read`` in the state that it has here, see ``Read.canonical``."""
        return read.canonical(self.touched)

    def get(self, read: Read) -> Tensor:
        """Raw rows, not normalized: (B, D), (C, D), or (B, C, D) where class texts depend on the image.

        Raises:
            KeyError: the read was not declared.
        """
        if (found := self.raw.get(self.canonical(read))) is None:
            raise KeyError(f"{read} is used but was not declared in reads")
        return found

    def __getitem__(self, read: Read) -> Tensor:
        """Rows of length 1, in float32."""
        return self.once(("unit", self.canonical(read)), lambda: F.normalize(self.get(read).float(), dim=-1))

    def labels(self, view: View | None = None) -> Tensor:
        """Integer labels of the images of ``view``: those of its stream, where it has one."""
        assert self.batch is not None
        stream = getattr(view, "stream", None)
        return self.stream(stream)["labels_B"] if stream else self.batch.labels_B

    def stream(self, name: str) -> Mapping[str, Any]:
        """The collated batch of a stream."""
        assert self.batch is not None
        return self.batch.streams[name]

    def pixels(self, view: View) -> Tensor:
        """The normalized pixels of an image view, made once."""

        def make() -> Tensor:
            with seeded(self.seed, *self.words, view):
                return self.model.preprocess.normalize(view.pixels(self))

        return self.once(("pixels", view), make)

    def scale(self, *reads: Read) -> Tensor:
        """The factor of cosines in logits: the pretrained one where all ``reads`` are frozen, else the current one."""
        return self._scale_and_bias(reads)[0]

    def cosines(self, a: Read, b: Read) -> Tensor:
        """scale * a b^T + bias of unit rows, (rows of a, rows of b), in float32 also under autocast."""

        def make() -> Tensor:
            x, y = self[a], self[b]
            with torch.autocast(x.device.type, enabled=False):
                scale, bias = self._scale_and_bias((a, b))
                return (scale * torch.einsum("bd,bcd->bc", x, y) if y.ndim == 3 else scale * x @ y.T) + bias

        return self.once(("cosines", self.canonical(a), self.canonical(b)), make)

    def logits(self, read: Read | None = None, output: str = "logits") -> Tensor:
        """What the method's head says of a sample (an image read, or any read in the shared space): (B, C)."""
        return self.outputs(read or Image())[output]

    def outputs(self, read: Read) -> Mapping[str, Tensor]:
        """All outputs of the head for a sample, computed once."""

        def make() -> Mapping[str, Tensor]:
            with torch.autocast(self.model.device.type, enabled=False):
                return self.head.outputs(self, read)

        return self.once(("head", self.canonical(read)), make)

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(trained, pretrained) pairs of the model's own weights that are trained."""
        return [(self.model.get_parameter(name), frozen) for name, frozen in self.model.frozen_weights().items()]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, computed once for each ``key`` of this step."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def _scale_and_bias(self, reads: Sequence[Read]) -> tuple[Tensor, Tensor]:
        return self.model.scale_and_bias(bool(reads) and all(self.canonical(r).state == "frozen" for r in reads))


@contextlib.contextmanager
def seeded(*words: object) -> Iterator[None]:
    """torch's generators seeded from ``words``, and put back after: adding a term never changes another's draws."""
    cuda, seed = torch.cuda.is_initialized(), step_seed(*words)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        if cuda or not torch.accelerator.is_available():
            # torch.manual_seed formats its call stack for each kind of device that is not in use: 0.3 ms each time.
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield
