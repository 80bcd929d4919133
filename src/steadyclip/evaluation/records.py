"""One training = one typed ``Run`` in its ``run.json``; one evaluation = one JSON ``Record``, which holds the run.

Tables, plots and pages are made from records only. A record says everything that its numbers depend on: model and
weights hash, method and knobs, the run it was trained by, data and content hash, templates, seed, versions and commit.
Accuracies are fractions; times are seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from steadyclip.core.errors import DataError
from steadyclip.core.files import slug
from steadyclip.core.schema import Document, parse

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.methods.base import Method

Skipped = tuple[tuple[str, str], ...]
"""(key, reason) of images that could not be read."""
Place = tuple[str, str, str | None]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what stands in a run or a record."""


class ModelInfo(Part, frozen=True):
    """The pretrained model: its name as given to ``load``, its family, and the hash of its pretrained weights."""

    name: str
    family: str
    weights_hash: str


class MethodInfo(Part, frozen=True):
    """The method, by its name in the registry and the plain values of all its knobs.

    Attributes:
        label: its name followed by the knobs that are not at their defaults; in a grid the row as it was typed.
        files: knob -> hash of the content of the file that it names.
        origin: the package or the file that it came with; "" for a method of this package.
        own_classes: it knows no other names than those it was trained on.
    """

    name: str
    knobs: dict[str, Any]
    label: str
    files: dict[str, str] = msgspec.field(default_factory=dict)
    origin: str = ""
    own_classes: bool = False

    @classmethod
    def of(cls, method: Method, label: str = "") -> MethodInfo:
        """What records and runs keep of ``method``; the label is its own by default."""
        from steadyclip.methods.registry import origin_of

        knobs = json.loads(json.dumps(method.knobs()))  # tuples become lists, as they come back from a file
        origin, own = origin_of(method.name), method.head.own_classes
        return cls(method.name, knobs, label or method.row, method.files(), origin, own)


class TaskInfo(Part, frozen=True):
    """What was trained on; ``content`` is a hash over the images themselves, their labels and captions, and ``others``
    are the classes of the data that were left out. ``notes`` say what was skipped, split or guessed in reading them."""

    name: str
    subset: str
    shots: int | None
    seed: int
    content: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    train_images: int
    val_images: int
    skipped: Skipped = ()
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: ImageTask) -> TaskInfo:
        """What runs keep of ``task``. Reads its images, where they were not hashed before."""
        same = ("name", "subset", "shots", "seed", "content", "classes", "templates", "skipped", "others", "notes")
        fields = {name: getattr(task, name) for name in same}
        domains = tuple(sorted({domain for domain in task.train.domains if domain}))
        return cls(**fields, train_images=len(task.train), val_images=len(task.val), domains=domains)


class Results(Part, frozen=True):
    """What a training came to.

    Attributes:
        steps: optimizer steps, 0 where something was learned without any.
        seconds: in training steps with their checkpoints, of all sittings together; without steps, in filling the head.
        images_per_second: training images over that time; None when no image was encoded.
        threads: of the processor, for each process: sums in another order differ in the last digits.
        flags: ``core.provenance.numeric_flags``, which change the last digits too.
        loss: mean of the last interval, in all and by term.
        choices: what the method chose by itself, such as a strength by the validation images.
        unreadable: training images that could not be decoded.
    """

    steps: int
    seconds: float
    images_per_second: float | None
    processes: int = 1
    device: str = "cpu"
    threads: int = 0
    flags: dict[str, Any] = {}
    loss: dict[str, float] = {}
    choices: dict[str, Any] = {}
    unreadable: Skipped = ()


class Soup(Part, frozen=True):
    """A run whose weights are those of several ``runs`` (digests of their identities), averaged. Recipe, settings, seed
    and shots of such a run are those of the first."""

    how: str
    runs: tuple[str, ...]


class Run(Document, frozen=True, kw_only=True):
    """One training: what it was made from, and its ``results`` once it is finished.

    ``recipe`` and ``config`` hold the fields of ``Recipe`` and ``TrainConfig`` as plain values, so that a run outlives
    their next change. ``recipe`` is None where nothing is trained by gradient steps. ``training.run`` says which of
    these facts decide the result. ``files`` are digests of the other files of the folder.
    """

    SCHEMA: ClassVar[int] = 2
    KIND: ClassVar[str] = "run"
    SPELLED: ClassVar[str] = "a run"
    REDO: ClassVar[str] = "train again into another folder"

    schema: Literal[2] = 2
    kind: Literal["run"] = "run"
    created: str
    completed: str | None = None
    model: ModelInfo
    method: MethodInfo
    recipe: dict[str, Any] | None
    config: dict[str, Any]
    task: TaskInfo
    results: Results | None = None
    soup: Soup | None = None
    versions: dict[str, str]
    commit: str | None
    files: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Trained to the end: there is nothing left to do."""
        return self.results is not None

    @property
    def seed(self) -> int:
        """Of the training; that of the sample is ``task.seed``."""
        return self.config["seed"]


class DataInfo(Part, frozen=True):
    """The test images; ``hash`` is over the images themselves, labels and classes.

    ``whole`` is the hash of all test images of the data set, so that its halves are known to be of one. ``images`` were
    scored; beside them ``skipped`` could not be read, and ``seen`` were left out since the run was
    trained or validated on them.
    """

    name: str
    subset: str
    domain: str | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    images: int
    hash: str
    skipped: Skipped
    seen: int = 0
    whole: str = ""

    @property
    def place(self) -> Place:
        """Which test set of the data it is."""
        return self.name, self.subset, self.domain

    @property
    def test(self) -> tuple[Place, tuple[str, ...]]:
        """What was scored: images, and by which prompts."""
        return self.place, self.templates


class Metrics(Part, frozen=True):
    """``interval95`` is the bootstrap interval of ``top1`` over test images, or over their groups."""

    top1: Fraction
    mean_per_class: Fraction
    ece: Fraction
    interval95: tuple[Fraction, Fraction]


class TowerDrift(Part, frozen=True):
    """Trained against frozen features of one tower: linear CKA and mean cosine, 1 where nothing moved."""

    cka: float
    cosine: float


class Drift(Part, frozen=True):
    """``image`` over the test images, ``text`` over the prompts of their classes."""

    image: TowerDrift
    text: TowerDrift


class ClassScore(Part, frozen=True):
    """Images of one class, and how many were classified right."""

    name: str
    images: int
    correct: int


class Example(Part, frozen=True):
    """One wrongly classified image; ``thumbnail`` is a base64 PNG of at most 64 pixels a side."""

    key: str
    thumbnail: str


class Confusion(Part, frozen=True):
    """``count`` images of the class ``true`` were taken for ``predicted``."""

    true: str
    predicted: str
    count: int
    examples: tuple[Example, ...]


class Record(Document, frozen=True, kw_only=True):
    """One evaluation. ``metrics`` is None, and ``reason`` says why, when the method cannot classify among the names.

    ``training`` is None for a method that was not trained; ``images_per_second`` is None when no image was encoded
    (features came from the cache, or there was nothing to score). ``drift`` is None where it was not measured;
    ``wise_alpha`` is the share of the trained weights where they were averaged with the pretrained ones; ``precision``
    is that of the scoring. Records of a grid also have ``settings``, where the recipe comes from, and the ``role`` of
    the test images: "id" more of what was trained on, "ood" the same classes elsewhere, "transfer" other classes.
    ``correct`` says which test images were right, in their order, for ``evaluation.paired``, and ``groups`` which of
    them show the same thing: a number for each, or nothing where all stand alone.
    ``device``, ``threads`` and ``flags`` are those of the scoring: sums in another order differ in the last digits.
    """

    SCHEMA: ClassVar[int] = 2
    KIND: ClassVar[str] = "evaluation"
    SPELLED: ClassVar[str] = "an evaluation record"
    REDO: ClassVar[str] = "evaluate again"

    schema: Literal[2] = 2
    kind: Literal["evaluation"] = "evaluation"
    created: str
    versions: dict[str, str]
    commit: str | None
    model: ModelInfo
    method: MethodInfo
    training: Run | None
    data: DataInfo
    shots: int | None
    seed: int | None
    metrics: Metrics | None
    reason: str | None
    per_class: tuple[ClassScore, ...]
    confusions: tuple[Confusion, ...]
    seconds: float
    images_per_second: float | None
    correct: str = ""
    groups: str = ""
    note: str = ""
    drift: Drift | None = None
    settings: str = ""
    role: str = ""
    wise_alpha: float | None = None
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 0
    flags: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """``record_name`` of what was measured."""
        data, prompts = self.data, self.training.task.templates if self.training else self.data.templates
        return record_name(data.place, data.hash, data.templates, self.precision, self.wise_alpha, prompts)

    @classmethod
    def from_content(cls, content: Any, path: str | Path) -> Record:
        """As ``Document.from_content``; also what types cannot say."""
        record = super().from_content(content, path)
        if (record.metrics is None) == (record.reason is None):
            raise DataError(f"{path}: exactly one of the fields 'metrics' and 'reason' must be null: {cls.REDO}.")
        if len(record.groups.split()) not in (0, record.data.images):
            raise DataError(f"{path}: 'groups' has not one number for each of the images: {cls.REDO}.")
        return record


def record_name(
    place: Place, content: str, templates: Sequence[str], precision: str, alpha: float | None, trained: Sequence[str]
) -> str:
    """A file name that says what was measured; another measurement by the same run has another one.

    Args:
        content: hash of the test images.
        templates: prompts that they were scored with.
        alpha: share of the trained weights, None for all of them.
        trained: prompts of the training; others are mentioned.
    """
    parts = [*filter(None, place)]
    parts += ["prompts"] if tuple(templates) != tuple(trained) else []
    parts += [precision] if precision != "fp32" else []
    parts += [] if alpha is None else [f"alpha{alpha:g}"]
    facts = json.dumps([place, content, templates, precision, alpha])
    return f"{slug('-'.join(parts))}-{hashlib.sha256(facts.encode()).hexdigest()[:6]}.json"


def load_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Records from files and folders, in a stable order, each file once.

    A file must be a record. In a folder every JSON file below it is looked at, and those of another kind (a run, a
    split) are left out.

    Raises:
        DataError: a path that is not there, a broken record or one of version 0.x, or no record at all.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    records: dict[Path, Record] = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            content = parse(file, Record.REDO)
            if file == path or (isinstance(content, dict) and content.get("kind") == Record.KIND):
                records[file.resolve()] = Record.from_content(content, file)
    if not records:
        where = ", ".join(map(str, paths)) or "no path given"
        raise DataError(f"no evaluation record found ({where}): `steadyclip evaluate` writes them.")
    return list(records.values())


def scored_among(own: int, trained: int) -> str:
    """The note on a test set that has ``own`` of the ``trained`` classes and is scored among those only; "" for all."""
    return f"scored among its own {own} of {trained} classes." if own < trained else ""
