"""How the recipes for icons-small are chosen: the same number of trainings for every method, and no test image.

    python benchmarks/choose_settings.py [METHOD ...] [--out settings.csv]     lines that are there are not made again
    python benchmarks/choose_settings.py METHOD ... --robust                   the length for robust fine-tuning

On each data set of `suite-dev` a method is trained on 16 shots of the first half of the *base* classes, and scored on
other drawings of those (base) and on the training and validation images of the other half (new). Ten settings of every
method are tried, see ``choose``. Best is the highest H of base and new, each averaged over the data sets; for a method
that cannot name new classes, base. One setting serves all data sets. Several of these can write one file, each with
other methods.

With ``--robust`` three lengths of each recipe are tried on `lab-robust`, five times as large: trained on all training
images by one team of drawers, scored on those by the others, as a test image there is always by another team.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from steadyclip import evaluate, fit, load, load_data
from steadyclip.anchors import Pool, retrieve
from steadyclip.core.errors import SteadyClipError
from steadyclip.data import ImageSet
from steadyclip.data.sampling import few_shot
from steadyclip.data.suites import find_suite
from steadyclip.data.task import ImageTask
from steadyclip.experiments.rows import Row, parse_row
from steadyclip.experiments.settings import settings_for
from steadyclip.training import TrainConfig

MODEL, SUITE, SEED = "icons-small", "suite-dev", 1
ROBUST, TEAM, LENGTHS = "lab-robust", "ph:", (1, 3, 10)
_WEIGHTS, _PARTS, _ORTHOGONAL, _ROWS = (3e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3), (3e-4, 1e-3, 3e-3)
_SHORT, _WORDS, _VIEWS = (
    "batch_size=32,warmup_steps=5,clip_norm=1",
    "batch_size=32,warmup_steps=5,views=3",
    "batch_size=32,views=5",
)
_LONG = (10, 30)
_SGD, _INIT = (1e-3, 3e-3, 1e-2), ("a drawing of a", "none")


@dataclasses.dataclass(frozen=True)
class Tried:
    """What is tried of a method: three learning rates, two lengths, two values of its main knob; ``fixed`` is part of
    every row. What trains on cached features is trained longer, as its steps cost little."""

    rates: tuple[float, float, float]
    knob: str
    values: tuple[str, str]
    fixed: str = ""
    epochs: tuple[int, int] = (3, 10)


METHODS = {
    "full": Tried(_WEIGHTS, "weight_decay", ("0.01", "0.3")),
    "lora": Tried(_PARTS, "rank", ("8", "32")),
    "dra": Tried(_PARTS, "l1_weight", ("0.1", "1")),
    "orthcr": Tried(_ORTHOGONAL, "l1", ("0.5", "4")),
    "flyp": Tried(_WEIGHTS, "weight_decay", ("0.01", "0.3")),
    "arf": Tried(_WEIGHTS, "l_c", ("0.3", "3"), "anchors=PAIRS"),
    "orthsr": Tried(_ORTHOGONAL, "l1", ("0.5", "4")),
    "bottleneck": Tried(_PARTS, "rank", ("8", "128")),
    "coop": Tried(_PARTS, "init", _INIT),
    "cocoop": Tried(_PARTS, "init", _INIT),
    "tip-adapter-f": Tried(_PARTS, "beta", ("2", "10"), epochs=_LONG),
    "kgcoop": Tried(_SGD, "w", ("2", "32"), _WORDS),
    "tcp": Tried(_PARTS, "w", ("2", "32"), _WORDS),
    "prograd": Tried(_SGD, "share", ("0.3", "0.8"), _WORDS),
    "maple": Tried(_SGD, "depth", ("1", "2"), _SHORT),
    "ivlp": Tried(_SGD, "depth", ("1", "2"), _SHORT),
    "promptsrc": Tried(_SGD, "text", ("5", "100"), f"{_SHORT},mean=MEAN"),
    "mmrl": Tried(_PARTS, "w", ("0.1", "3"), _SHORT),
    "mma": Tried(_SGD, "rank", ("8", "128"), _SHORT),
    "clip-adapter": Tried(_ROWS, "ratio", ("0.1", "0.5"), _VIEWS, _LONG),
    "taskres": Tried(_ROWS, "alpha", ("0.25", "1"), _VIEWS, _LONG),
    "zs-lp": Tried(_ROWS, "weight_decay", ("0.01", "0.1"), _VIEWS, _LONG),
    "clap": Tried(_ROWS, "w", ("0.3", "3"), _VIEWS, _LONG),
    "cross-modal": Tried(_ROWS, "texts", ("0.25", "0.75"), _VIEWS, _LONG),
    "ft": Tried(_WEIGHTS, "weight_decay", ("0.01", "0.3"), _SHORT),
    "lp-ft": Tried(_WEIGHTS, "weight_decay", ("0.01", "0.3"), _SHORT),
    "l2-sp": Tried(_WEIGHTS, "w", ("0.001", "0.1"), _SHORT),
    "car-ft": Tried(_WEIGHTS, "w", ("0.3", "3"), _SHORT),
    "lipsum-ft": Tried(_WEIGHTS, "w", ("0.3", "3"), _SHORT),
    "clipood": Tried(_WEIGHTS, "margin", ("0.1", "0.5"), _SHORT),
}
"""Rates around those of an earlier small model, or of the authors, three times apart; `promptsrc` takes the mean of its
average at three quarters of its epochs, as published. What takes no steps (`lp++`, `linear-probe`) is not tuned."""
FIELDS = ("model", "method", "row", "data", "base", "new")

Data = Mapping[str, tuple[ImageTask, ImageSet | None]]
"""For each data set what is trained on, with what is scored as its validation images; and images of new classes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--robust", action="store_true")
    parser.add_argument("--out", type=Path, help="results/settings.csv, or results/settings-robust.csv")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    if unknown := [method for method in options.methods if method not in METHODS]:
        parser.error(f"{unknown[0]}: no settings are tried of it, only of {', '.join(METHODS)}.")
    data: Data
    if options.robust:
        data, out, best = {ROBUST: other_teams()}, Path("results/settings-robust.csv"), choose_length
    else:
        suite = find_suite(SUITE)
        assert suite is not None
        data, out, best = {name: halves(name) for name in suite.members}, Path("results/settings.csv"), choose
    trial = Trial(options.out or out, options.model, options.precision, data)
    trial.score("zero-shot", "zero-shot")
    for method in options.methods:
        print(f"chosen: {best(method, trial.score)}", flush=True)


def choose(method: str, score: Callable[[str, str], float]) -> str:
    """The best of ten rows: three rates by two lengths; then, at the best length, two more rates; then two values of
    the main knob. The further rates lie beyond the best where that was the lowest or the highest, else around it."""
    tried = METHODS[method]

    def row(rate: float, epochs: int, *more: str) -> str:
        fixed = tried.fixed.replace("MEAN", f"{0.75 * epochs:g}")
        return f"{method}[{','.join([*filter(None, [fixed]), f'learning_rate={rate:.2g}', f'epochs={epochs}', *more])}]"

    def best(of: list[tuple[float, int, str]]) -> tuple[float, int, str]:
        return max(of, key=lambda one: score(method, row(*one[:2], *filter(None, one[2:]))))

    low, middle, high = tried.rates
    rate, epochs, _ = first = best(
        [(rate, epochs, "") for rate, epochs in itertools.product(tried.rates, tried.epochs)]
    )
    more = {low: (low / 3, low / 9), middle: (middle / 3**0.5, middle * 3**0.5), high: (3 * high, 9 * high)}[rate]
    rate, epochs, _ = second = best([first, *((other, epochs, "") for other in more)])
    last = best([second, *((rate, epochs, f"{tried.knob}={value}") for value in tried.values)])
    return row(*last[:2], *filter(None, last[2:]))


def choose_length(method: str, score: Callable[[str, str], float]) -> str:
    """The best of three lengths."""
    fixed = METHODS[method].fixed
    rows = [f"{method}[{','.join([*filter(None, [fixed]), f'epochs={epochs}'])}]" for epochs in LENGTHS]
    return max(rows, key=lambda row: score(method, row))


class Trial:
    """Scores rows on the development data, those excepted that the file has."""

    def __init__(self, path: Path, model: str, precision: Any, data: Data) -> None:
        self.path, self.model, self.precision, self.data = path, model, precision, data
        self.weights = f"{load(model).weights_hash} {precision}"
        self.known: dict[tuple[str, str], tuple[float, float | None]] = {}
        if path.is_file():
            with path.open(newline="") as file:
                for line in csv.DictReader(file):
                    if line["model"] != self.weights:
                        raise SystemExit(f"{path} is of {line['model']}, not of {self.weights}: name another --out.")
                    found = float(line["base"]), float(line["new"]) if line["new"] else None
                    self.known[line["row"], line["data"]] = found
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(FIELDS) + "\n")

    def score(self, method: str, text: str) -> float:
        """H over the data sets in percent, or base where there is no new."""
        found = [self._of(method, text, name) for name in self.data]
        base, new = fmean(b for b, _ in found), [n for _, n in found if n is not None]
        total = harmonic_mean((base, fmean(new))) if new else base
        after = f"  new {fmean(new):.1f}  H {total:.1f}" if new else ""
        print(f"{text:<70} base {base:.1f}{after}", flush=True)
        return total

    def _of(self, method: str, text: str, name: str) -> tuple[float, float | None]:
        if (text, name) not in self.known:
            task, new = self.data[name]
            own = text.replace("PAIRS", str(self._pairs(name))) if "PAIRS" in text else text
            row, model = parse_row(own, settings_for(self.model)), load(self.model)
            if row.recipe is not None:
                fit(model, row.method, task, recipe=row.recipe, config=self._config(row))
            base, unseen = (None if images is None else self._top1(model, row, images) for images in (task.val, new))
            assert base is not None
            self.known[text, name] = base, unseen
            with self.path.open("a", newline="") as file:
                cells = [f"{base:.2f}", "" if unseen is None else f"{unseen:.2f}"]
                csv.writer(file, lineterminator="\n").writerow([self.weights, method, text, name, *cells])
        return self.known[text, name]

    def _pairs(self, name: str) -> Path:
        """For each training image of a data set the nearest pair of `lab-pool`."""
        pool, pairs = (self.path.parent / "anchors" / file for file in ("pool", f"{name}.parquet"))
        if not pool.exists():
            words = ["lab-pool", "--text-column", "caption", "--model", self.model, "--out", str(pool)]
            subprocess.run(["steadyclip", "anchors", "embed", *words], check=True)
        if not pairs.exists():  # from Python, as half of the classes and their validation images are trained on
            retrieve(load(self.model), Pool.open(pool), self.data[name][0].train, pairs)
        return pairs

    def _config(self, row: Row) -> TrainConfig:
        changes: dict[str, Any] = {"precision": self.precision, **row.config}
        return TrainConfig(seed=SEED, progress=False, checkpoint_minutes=None, **changes)

    def _top1(self, model: Any, row: Row, images: ImageSet) -> float | None:
        metrics = evaluate(model, row.method, images, precision=self.precision).metrics
        return 100 * metrics.top1 if metrics else None


def halves(name: str) -> tuple[ImageTask, ImageSet]:
    """16 shots of the first half of the base classes, other drawings of those to score, and all of the other half.

    The data set's own validation images show drawings that are trained on, and would reward learning them by heart.
    """
    task = load_data(name).task(shots=None, seed=SEED, subset="base")
    last = len(task.classes)
    images = task.train.joined(task.val)
    own, others = images.of_classes(range(last // 2)), images.of_classes(range(last // 2, last))
    place: dict[tuple[int, str | None], int] = {}
    count: Counter[int] = Counter()
    for label, group in dict.fromkeys(zip(own.labels, own.groups, strict=True)):
        place[label, group] = count[label]
        count[label] += 1
    held = [place[one] % 3 == 2 for one in zip(own.labels, own.groups, strict=True)]
    train, val = (own.subset(i for i, out in enumerate(held) if out == wanted) for wanted in (False, True))
    shots, _ = few_shot(train.labels, val.labels, 16, SEED)
    return dataclasses.replace(task, train=train.subset(shots), val=val, shots=16), others


def other_teams() -> tuple[ImageTask, None]:
    """All training images of `lab-robust` by one team, and those by the others to score."""
    task = load_data(ROBUST).task(shots=None, seed=SEED)
    images = task.train.joined(task.val)
    assert images.groups is not None
    own = [str(group).startswith(TEAM) for group in images.groups]
    train, val = (images.subset(i for i, of in enumerate(own) if of == wanted) for wanted in (True, False))
    return dataclasses.replace(task, train=train, val=val), None


if __name__ == "__main__":
    try:
        main()
    except (SteadyClipError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
