"""What a small CLIP of drawings knows without training: every number of its card, from one command.

    python benchmarks/icons_small.py [MODEL]                 the twelve data sets and lab-robust
    python benchmarks/icons_small.py --held-out HELD.parquet MODEL ...   which state of the training to keep
    python benchmarks/icons_small.py --curves FOLDER CURVES.svg          the losses of the four stages

Needs steadyclip-lab. Top-1 in percent on the test images, each half of the classes among its own names, with the 95 %
bootstrap interval over images; by bare names too; expected calibration error. The choice between states of a training
looks at the teams that pretraining held out, never at these data sets.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image

from steadyclip import evaluate, get_method, load, load_data
from steadyclip.data import ImageSet
from steadyclip.models import DualEncoder
from steadyclip_lab.pretrain.scenes import scenes
from steadyclip_lab.suite.plan import ROBUST, SUITE

NEAR = ("lab-things", "lab-wild", "lab-clutter", "lab-sketch", "lab-night")
PROMPTS = ("{}", "an icon of a {}.", "a drawing of a {}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["icons-small"])
    parser.add_argument("--held-out", type=Path, help="the teams held out of the pretraining")
    parser.add_argument("--curves", type=Path, nargs=2, help="a folder of *.jsonl, and the figure to draw")
    args = parser.parse_args()
    if args.curves:
        return draw_curves(*args.curves)
    for name in args.models:
        print(f"{name}:")
        if args.held_out:
            print(f"held-out teams: {held_out(load(name), args.held_out):.1f} %")
        else:
            table(load(name))


def draw_curves(folder: Path, out: Path) -> None:
    """The loss of each stage over its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4), layout="constrained")
    for axes, stage in zip(figure.subplots(1, 4), ("teacher", "distil", "text", "joint"), strict=True):
        lines = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], linewidth=1)
        axes.set(title=stage, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def table(model: DualEncoder) -> None:
    """Prints the zero-shot table."""
    print(
        "| data | classes | base | new | by bare names | calibration error |\n| --- | ---: | --- | --- | --- | ---: |"
    )
    found: dict[str, tuple[float, float]] = {}
    for name, data_set in SUITE.items():
        data = load_data(name)
        halves = [data.test_set(subset=half) for half in ("base", "new")]
        scored = [score(model, half, data_set.template) for half in halves]
        bare = [score(model, half, "{}")[0] for half in halves]
        found[name] = scored[0][0], scored[1][0]
        cells = [f"{top1:.1f} ({low:.1f} to {high:.1f})" for top1, low, high, _ in scored]
        error = statistics.mean(one[3] for one in scored)
        print(
            f"| {name} | {len(data.classes)} | {' | '.join(cells)} | {bare[0]:.1f} / {bare[1]:.1f} | {error:.1f} |",
            flush=True,
        )
    for label, names in (("mean of the twelve", SUITE), ("mean without the far sets", NEAR)):
        base, new = (statistics.mean(found[name][half] for name in names) for half in (0, 1))
        print(f"| {label} | | {base:.1f} | {new:.1f} | H {statistics.harmonic_mean((base, new)):.1f} | |")
    print()
    robust = load_data(ROBUST.name)
    for domain in robust.domains:
        print(f"lab-robust, {domain}: {score(model, robust.test_set(domain=domain), ROBUST.template)[0]:.1f}")
    things = load_data("lab-things").test_set()
    for prompt in PROMPTS:
        print(f"lab-things, all classes, {prompt!r}: {score(model, things, prompt)[0]:.1f}")


def score(model: DualEncoder, images: ImageSet, template: str) -> tuple[float, float, float, float]:
    """Top-1, its interval and the expected calibration error, in percent."""
    metrics = evaluate(model, get_method("zero-shot"), images, templates=[template]).metrics
    assert metrics is not None
    low, high = metrics.interval95
    return 100 * metrics.top1, 100 * low, 100 * high, 100 * metrics.ece


@torch.inference_mode()
def held_out(model: DualEncoder, path: Path, batch_size: int = 256) -> float:
    """Top-1 in percent over the drawings of the held-out teams in scenes, among the names that two of them share."""
    rows = parquet.read_table(path, columns=["image", "text", "set"]).to_pylist()
    sets: dict[str, set[str]] = {}
    for row in rows:
        sets.setdefault(row["text"], set()).add(row["set"])
    names = sorted(text for text, found in sets.items() if len(found) > 1)
    rows = [row for row in rows if row["text"] in set(names)]
    text_CD = model.encode_text([f"an icon of a {name}." for name in names])
    right = 0
    order = np.random.default_rng(0).permutation(len(rows))
    for start in range(0, len(rows), batch_size):
        chosen = [rows[i] for i in order[start : start + batch_size]]
        shown_B3HW = scenes(
            torch.stack([_pixels(row["image"]) for row in chosen]), torch.Generator().manual_seed(start)
        )
        features_BD = model.encode_image((shown_B3HW - 0.5) / 0.5)
        predicted = (features_BD @ text_CD.T).argmax(1).tolist()
        right += sum(names[p] == row["text"] for p, row in zip(predicted, chosen, strict=True))
    print(f"{len(rows)} drawings, {len(names)} names")
    return 100 * right / len(rows)


def _pixels(png: bytes) -> torch.Tensor:
    image = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"({time.perf_counter() - started:.0f} s)")
