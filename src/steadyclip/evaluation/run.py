"""What a training was: one typed ``Run``, which stands in ``run.json`` and in every record of its result.

``training.run`` writes and reads the folder, and says which of these facts decide the result. The types are here
because a record, on this floor, holds a run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from steadyclip.core.schema import Document

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.methods.base import Method

Skipped = tuple[tuple[str, str], ...]


class ModelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pretrained model: its name as given to ``load``, its family, and the hash of its pretrained weights."""

    name: str
    family: str
    weights_hash: str


class MethodInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The method.

    Attributes:
        name: as in the registry.
        knobs: all of them, as plain values.
        label: its name followed by the knobs that are not at their defaults; in a grid the row as it was typed.
        files: knob -> hash of the content of the file that it names.
        origin: the package or the file that it came with; "" for a method of this package.
    """

    name: str
    knobs: dict[str, Any]
    label: str
    files: dict[str, str] = {}
    origin: str = ""

    @classmethod
    def of(cls, method: Method, label: str = "") -> MethodInfo:
        """What records and runs keep of ``method``; the label is its own by default."""
        from steadyclip.methods.registry import origin_of

        knobs = json.loads(json.dumps(method.knobs()))  # tuples become lists, as they come back from a file
        return cls(method.name, knobs, label or method.row, method.files(), origin_of(method.name))


class TaskInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was trained on; ``content`` is a hash over the images themselves, their labels and captions."""

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

    @classmethod
    def of(cls, task: ImageTask) -> TaskInfo:
        """What runs keep of ``task``. Reads its images, where they were not hashed before."""
        return cls(
            name=task.name,
            subset=task.subset,
            shots=task.shots,
            seed=task.seed,
            content=task.content,
            classes=task.classes,
            templates=task.templates,
            train_images=len(task.train),
            val_images=len(task.val),
            skipped=task.skipped,
        )


class Results(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training came to.

    Attributes:
        steps: optimizer steps, 0 where something was learned without any.
        seconds: in training steps with their checkpoints, of all sittings together; without steps, in filling the head.
        images_per_second: training images over that time; None when no image was encoded.
        loss: mean of the last interval, in all and by term.
        choices: what the method chose by itself, such as a strength by the validation images.
        unreadable: training images that could not be decoded, with the reason.
    """

    steps: int
    seconds: float
    images_per_second: float | None
    processes: int = 1
    device: str = "cpu"
    loss: dict[str, float] = {}
    choices: dict[str, Any] = {}
    unreadable: Skipped = ()


class Run(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training: what it was made from, and its ``results`` once it is finished.

    ``recipe`` and ``config`` hold the fields of ``Recipe`` and ``TrainConfig`` as plain values: these are declared
    there, once, and a run outlives their next change. ``recipe`` is None where nothing is trained by gradient steps.
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
    versions: dict[str, str]
    commit: str | None

    @property
    def finished(self) -> bool:
        """Trained to the end: there is nothing left to do."""
        return self.results is not None

    @property
    def seed(self) -> int:
        """Of the training; that of the sample is ``task.seed``."""
        return self.config["seed"]
