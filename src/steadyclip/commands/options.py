"""Options that several commands share, and how commands speak."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steadyclip.core.errors import UsageError

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.methods import Recipe

SubsetName = Literal["all", "base", "new"]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images, and how their names become prompts."""

    data: str
    """Folder `class/image`, .csv or .parquet table, folder with split_zhou_*.json, a built-in name (`icons`), or one of
    the field's data sets by name (`caltech101`; `steadyclip data list`)."""
    root: Path | None = None
    """Folder that holds the field's data sets; by default the environment variable STEADYCLIP_DATA."""
    sources: tuple[str, ...] = ()
    """Domains to train on; all images of the others are then test images. By default every domain."""
    templates: tuple[str, ...] = ()
    """Prompts with {} for the class name; by default the data set's own."""
    image_column: str = "path"
    """Column of a table with image paths or bytes."""
    label_column: str = "label"
    """Column of a table with class names."""
    max_unreadable: float = 0.05
    """Share of unreadable images above which it is an error; below it they are skipped and listed."""

    @property
    def words(self) -> str:
        """The options that name the data, as one types them."""
        words = ["--data", self.data, *(("--root", str(self.root)) if self.root else ())]
        return shlex.join([*words, *(("--sources", *self.sources) if self.sources else ())])

    def load(self) -> ImageData:
        from steadyclip.data import load_data

        return load_data(
            self.data, templates=self.templates or None, max_unreadable=self.max_unreadable,
            image_column=self.image_column, label_column=self.label_column, root=self.root, sources=self.sources,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RecipeOptions:
    """Changes to the method's published recipe; `steadyclip methods NAME` shows it."""

    learning_rate: float | None = None
    """Peak learning rate."""
    epochs: float | None = None
    """Passes over the training images."""
    steps: int | None = None
    """Optimizer steps in all, instead of epochs."""
    batch_size: int | None = None
    """Images in an optimizer step."""
    weight_decay: float | None = None
    """Weight decay."""
    warmup_steps: int | None = None
    """Steps of linear warm-up."""

    def change(self, recipe: Recipe | None, method: str) -> Recipe | None:
        changes = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        if not changes:
            return recipe
        if recipe is None:
            flags = ", ".join(f"--{k.replace('_', '-')}" for k in changes)
            raise UsageError(f"method {method!r} is not trained by gradient steps: {flags} would change nothing.")
        if self.epochs is not None and self.steps is not None:
            raise UsageError("give --epochs or --steps, not both.")
        if {"epochs", "steps"} & changes.keys():
            changes = {"epochs": None, "steps": None, "steps_per_shot": None} | changes
        return dataclasses.replace(recipe, **changes)


def parse_knobs(words: Sequence[str]) -> dict[str, str]:
    """``["rank=4"]`` as ``{"rank": "4"}``.

    Raises:
        UsageError: a word without ``=``, or a knob given twice.
    """
    knobs: dict[str, str] = {}
    for word in words:
        knob, equals, value = word.partition("=")
        if not equals or not knob:
            raise UsageError(f"--knobs takes name=value, not {word!r}, for instance --knobs rank=4 dropout=0.1.")
        if knob in knobs:
            raise UsageError(f"knob {knob!r} is given twice.")
        knobs[knob] = value
    return knobs


def best_device(name: str) -> str:
    """``auto`` as the accelerator if there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def say(*lines: str) -> None:
    """Lines on standard output, at once."""
    for line in lines:
        print(line, flush=True)


def show(table: object) -> None:
    """A rich table, plain where standard output is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)
