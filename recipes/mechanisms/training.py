"""What the programs of this folder share: trainings that are kept, tables, the look of the figures."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from steadyclip import DualEncoder, fit, load, load_data
from steadyclip.data.task import ImageTask
from steadyclip.experiments.rows import parse_row
from steadyclip.experiments.settings import settings_for
from steadyclip.methods.base import Method
from steadyclip.training import TrainConfig

ROOT = Path(__file__).parents[2]
MODEL = "icons-small"
LONG = "a small picture in a simple style that shows a drawing of a {} made by one of many teams."
"""A prompt full of words that say nothing about the class."""
BLUE, ORANGE, GREEN, GRAY = "#1f6fb4", "#d95f02", "#3a8f4d", "#7a7a7a"


class Trained(NamedTuple):
    """A finished training, and the folder that keeps it."""

    model: DualEncoder
    method: Method
    task: ImageTask
    folder: Path


def arguments(about: str | None, out: str = "runs/mechanisms") -> argparse.Namespace:
    """The options that all of these programs have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser.parse_args()


def trained(row: str, data: str, seed: int, out: Path, template: str | None = None, **config: Any) -> Trained:
    """``row`` trained on 16 shots of the base classes of ``data``, as `bench` does it; not again where it is there."""
    parsed = parse_row(row, settings_for(MODEL))
    task = load_data(data).task(shots=16, seed=seed, subset="base")
    if template:
        worded = {part: dataclasses.replace(getattr(task, part), templates=(template,)) for part in ("train", "val")}
        task = dataclasses.replace(task, **worded)
    words = "-".join([row, data, f"seed{seed}", *(["long"] if template else []), *map(str, config.values())])
    folder = out / re.sub(r"[^\w.-]+", "-", words)
    changes: dict[str, Any] = {"precision": "bf16", **parsed.config, **config}
    model = load(MODEL)
    fit(model, parsed.method, task, recipe=parsed.recipe, config=TrainConfig(seed=seed, out=folder, **changes))
    return Trained(model, parsed.method, task, folder)


def write_csv(name: str, fields: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """results/NAME.csv; numbers with five digits."""
    path = ROOT / "results" / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows([f"{cell:.5g}" if isinstance(cell, float) else cell for cell in line] for line in lines)
    print(f"wrote {path.relative_to(ROOT)}")


@contextmanager
def figure(name: str, width: float, height: float) -> Iterator[Figure]:
    """A figure to fill, then docs/methods/NAME.svg; the same content gives the same bytes."""
    style: Any = {
        "font.size": 9, "svg.hashsalt": name, "svg.fonttype": "none", "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "savefig.facecolor": "white",
    }  # fmt: skip
    with mpl.rc_context(style):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        path = ROOT / "docs" / "methods" / f"{name}.svg"
        drawn.savefig(path, metadata={"Date": None})
    print(f"wrote {path.relative_to(ROOT)}")
