"""How the recipes for icons-small are chosen: the same number of trainings for every method, and no test image.

    python benchmarks/choose_settings.py [METHOD ...] [--out settings.csv]     lines that are there are not made again

On each data set of `suite-dev` a method is trained on 16 shots of the first half of the *base* classes, and scored on
other drawings of those (base) and on the training and validation images of the other half (new). First three learning
rates by two lengths; then, with the best of the six, two more values of the main knob. Best is the highest H of base
and new, each averaged over the data sets; for a method that cannot name new classes, base. One setting serves all data
sets. Several of these can write one file, each with other methods.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import subprocess
from collections import Counter
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from steadyclip import evaluate, fit, load, load_data
from steadyclip.data import ImageSet
from steadyclip.data.sampling import few_shot
from steadyclip.data.suites import find_suite
from steadyclip.data.task import ImageTask
from steadyclip.experiments.rows import Row, parse_row
from steadyclip.experiments.settings import settings_for
from steadyclip.training import TrainConfig

MODEL, SUITE, SEED, EPOCHS = "icons-small", "suite-dev", 1, (3, 10)
RATES = {
    "full": (3e-5, 1e-4, 3e-4), "flyp": (3e-5, 1e-4, 3e-4), "arf": (3e-5, 1e-4, 3e-4),
    "lora": (3e-4, 1e-3, 3e-3), "bottleneck": (3e-4, 1e-3, 3e-3), "dra": (3e-4, 1e-3, 3e-3),
    "orthcr": (1e-4, 3e-4, 1e-3), "orthsr": (1e-4, 3e-4, 1e-3),
    "coop": (3e-4, 1e-3, 3e-3), "cocoop": (3e-4, 1e-3, 3e-3), "tip-adapter-f": (3e-4, 1e-3, 3e-3),
}  # fmt: skip
"""Chosen around what the same method got on an earlier small model, three times apart."""
KNOBS = {
    "full": ("weight_decay", ("0.01", "0.3")), "flyp": ("weight_decay", ("0.01", "0.3")), "arf": ("l_c", ("0.3", "3")),
    "lora": ("rank", ("8", "32")), "bottleneck": ("rank", ("8", "128")), "dra": ("l1_weight", ("0.1", "1")),
    "orthcr": ("l1", ("0.5", "4")), "orthsr": ("l1", ("0.5", "4")),
    "coop": ("init", ("a drawing of a", "none")), "cocoop": ("init", ("a drawing of a", "none")),
    "tip-adapter-f": ("beta", ("2", "10")),
}  # fmt: skip
FIELDS = ("model", "method", "row", "data", "base", "new")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(RATES))
    parser.add_argument("--out", type=Path, default=Path("results/settings.csv"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    trial = Trial(options.out, options.model, options.precision)
    trial.score("zero-shot", "zero-shot")
    for method in options.methods:
        rows = [f"learning_rate={rate:g},epochs={epochs}" for rate, epochs in itertools.product(RATES[method], EPOCHS)]
        fixed = "anchors=PAIRS," if method == "arf" else ""
        rows = [f"{method}[{fixed}{row}]" for row in rows]
        best = max(rows, key=lambda row: trial.score(method, row))
        knob, values = KNOBS[method]
        more = [f"{best[:-1]},{knob}={value}]" for value in values]
        best = max([best, *more], key=lambda row: trial.score(method, row))
        print(f"chosen: {best}", flush=True)


class Trial:
    """Scores rows on the development data, those excepted that the file has."""

    def __init__(self, path: Path, model: str, precision: Any) -> None:
        self.path, self.model, self.precision = path, model, precision
        self.weights = f"{load(model).weights_hash} {precision}"
        suite = find_suite(SUITE)
        assert suite is not None
        self.data = {name: halves(name) for name in suite.members}
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
            base, unseen = (self._top1(model, row, images) for images in (task.val, new))
            assert base is not None
            self.known[text, name] = base, unseen
            with self.path.open("a", newline="") as file:
                unseen_text = "" if unseen is None else f"{unseen:.2f}"
                csv.writer(file).writerow([self.weights, method, text, name, f"{base:.2f}", unseen_text])
        return self.known[text, name]

    def _pairs(self, name: str) -> Path:
        """For each training image of a data set the nearest pair of `lab-pool`."""
        pool, pairs = (self.path.parent / "anchors" / file for file in ("pool", f"{name}.parquet"))
        for made, words in (
            (pool, ["embed", "lab-pool", "--text-column", "caption"]),
            (pairs, ["retrieve", "--data", name, "--pool", str(pool)]),
        ):
            if not made.exists():
                words = ["steadyclip", "anchors", *words, "--out", str(made)]
                if made == pool:
                    words += ["--model", self.model]
                subprocess.run(words, check=True)
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


if __name__ == "__main__":
    main()
