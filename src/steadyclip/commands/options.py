"""Options that several commands share, and how commands print."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import UsageError
from steadyclip.core.extensions import MODELS, extensions
from steadyclip.core.limits import Share
from steadyclip.core.progress import warn
from steadyclip.core.terminal import console
from steadyclip.data.sampling import Subset as SubsetName
from steadyclip.experiments.settings import PUBLISHED, Settings

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.experiments.rows import Row


__all__ = [
    "EMBEDDED",
    "FOR_PHOTOS",
    "DataOptions",
    "SubsetName",
    "check_values",
    "model_for",
    "named_values",
    "one_row",
    "print_json",
    "say",
    "show",
    "tell",
]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which images, and how their names become prompts."""

    data: str
    """Folder `class/image`, .csv or .parquet table, folder with split_zhou_*.json, a built-in name (`lab-things`), or
    one of the field's data sets by name (`caltech101`; `steadyclip data list`)."""
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
    max_unreadable: Share = 0.05
    """Share of unreadable images above which it is an error; below it they are skipped and listed."""

    @property
    def words(self) -> str:
        """The options that are not at their defaults, as one types them."""
        words: list[str] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def load(self) -> ImageData:
        from steadyclip.data import load_data

        given = {**vars(self), "templates": self.templates or None}
        return load_data(given.pop("data"), **given)


EMBEDDED = "icons-small"
"""The model of steadyclip-lab."""
FOR_PHOTOS = f"{EMBEDDED} knows drawings only; for photos take --model openai/clip-vit-base-patch16, for instance"


def model_for(model: str | None, data: str) -> str:
    """The model to train: the embedded one only for the drawings that it was made for, unless it is named; then a line
    says what it knows.

    Raises:
        UsageError: no model is named, and ``data`` is not built in.
    """
    from steadyclip.data.builtin import find_builtin

    if find_builtin(data) is not None:
        return model or EMBEDDED
    if model is None:
        raise UsageError(f"name the model to train with --model. {FOR_PHOTOS}.")
    if model == EMBEDDED in extensions(MODELS):
        warn(FOR_PHOTOS)
    return model


def one_row(flag: str, text: str, settings: Settings = PUBLISHED) -> Row:
    """The row that ``flag`` names.

    Raises:
        UsageError: there are several, or it cannot be read.
    """
    from steadyclip.experiments.rows import parse_rows

    row, *others = parse_rows([text], settings)
    if others:
        raise UsageError(f"{flag} takes one method, not {1 + len(others)}: `steadyclip bench` takes several.")
    return row


def check_values(flag: str, values: Sequence[Any] | None) -> None:
    """Raises UsageError where ``flag`` is given without a value, or with one twice."""
    if values is None:
        return
    if not values:
        raise UsageError(f"{flag} needs at least one value.")
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise UsageError(f"{flag}: {twice[0]} is given twice, leave one out.")


def named_values(words: Sequence[str]) -> dict[str, Any]:
    """``["num_cpus=4"]`` as ``{"num_cpus": 4}``: numbers where they are some. Raises ``UsageError`` as ``pairs``."""
    from steadyclip.experiments.rows import pairs

    def value(text: str) -> Any:
        if text.isdecimal():
            return int(text)
        return float(text) if re.fullmatch(r"\d*\.\d+", text) else text

    return {name: value(text) for name, text in pairs(words).items()}


def print_json(value: Any) -> None:
    """Indented, on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def say(*lines: str) -> None:
    """Lines on standard output, at once."""
    for line in lines:
        print(line, flush=True)


def tell(text: str) -> None:
    """Sentences, each a line; on a terminal they are wrapped at words."""
    if sys.stdout.isatty():
        show(text)
    else:
        say(text)


def show(table: object) -> None:
    """A rich table or a paragraph, plain where standard output is not a terminal."""
    width = None if sys.stdout.isatty() else 160
    console(width=width, highlight=False).print(table, markup=False)
