"""Draw what the orthogonal layer keeps and what the attentive cut hides, from real runs: docs/methods/orthcr.png.

python examples/orthcr_picture.py --out docs/methods/orthcr.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from steadyclip import DualEncoder, fit, get_method, load, load_data
from steadyclip.data import ImageTask
from steadyclip.data.cutout import attentive_cutout
from steadyclip.methods import Recipe
from steadyclip.training import TrainConfig

CLASSES = ("bicycle", "bird", "backpack", "cat", "coffee cup", "microscope")
COLORS = {"full": "#d95f02", "orthsr": "#1f6fb4"}
RATES = {"full": 1e-4, "orthsr": 3e-4}  # for icons-small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("orthcr.png"))
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    task = load_data("lab-things").task(shots=options.shots, seed=1, subset="base")
    start, after = neurons(load("icons-small")), {}
    for name, rate in RATES.items():
        model, method = load("icons-small"), get_method(name)
        recipe = Recipe(learning_rate=rate, steps=options.steps, batch_size=32, warmup_steps=5)
        fit(model, method, task, recipe=recipe, config=TrainConfig(seed=1, progress=False))
        method.merge(model)
        after[name] = neurons(model)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9.2, 6.6), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 4])
        draw_angles(parts[0], start, after)
        draw_cuts(parts[1], load("icons-small"), task)
        figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


def neurons(model: DualEncoder) -> Tensor:
    """Unit weight vectors of fc1 in the last block of the image tower."""
    return F.normalize(model.image_tower.blocks[-1].fc1.weight.detach(), dim=1)


def degrees(cosine: Tensor) -> Tensor:
    return cosine.clamp(-1, 1).arccos().rad2deg()


def draw_angles(part: Any, start: Tensor, after: dict[str, Tensor]) -> None:
    """How angles between neurons changed, and how far each neuron itself went."""
    between, own = part.subplots(1, 2, width_ratios=[3, 2])
    row, column = torch.triu_indices(len(start), len(start), 1)
    some = torch.randperm(len(row), generator=torch.Generator().manual_seed(0))[:6000]
    before = degrees((start @ start.T)[row, column])
    for name, now in after.items():
        change = degrees((now @ now.T)[row, column]) - before
        label = f"{name}: at most {change.abs().max():.1g}°"
        between.scatter(before[some], change[some], s=2, color=COLORS[name], label=label, rasterized=True)
        own.hist(degrees((start * now).sum(1)), bins=40, color=COLORS[name], alpha=0.75, label=name)
    between.set(title="angles between neurons", xlabel="before training (degrees)", ylabel="change (degrees)")
    between.legend(markerscale=4, loc="upper left", frameon=False)
    own.set(title="each neuron's own way", xlabel="angle to where it started (degrees)", ylabel="neurons")
    own.legend(frameon=False)
    for axis in (between, own):
        axis.spines[["top", "right"]].set_visible(False)


@torch.no_grad()
def draw_cuts(part: Any, model: DualEncoder, task: ImageTask) -> None:
    """Training images, the frozen model's similarity of their patches to their class, and the cut views."""
    chosen = [task.classes.index(name) for name in CLASSES if name in task.classes] or list(range(8))
    rows = [task.train.labels.index(label) for label in chosen]
    pixels_BCHW = torch.stack([model.preprocess(task.train.read(row)) for row in rows])
    text_CD = model.encode_text([task.templates[0].format(task.classes[label]) for label in chosen])
    _, patch_BYXD = model.encode_patches(pixels_BCHW)
    similarity_BYX = torch.einsum("byxd,bd->byx", patch_BYXD, text_CD)
    cut_BCHW = attentive_cutout(pixels_BCHW, similarity_BYX, 0.5)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    lines: Any = part.subplots(3, len(rows))
    for b, label in enumerate(chosen):
        for line, shown in enumerate((pixels_BCHW[b], similarity_BYX[b], cut_BCHW[b])):
            picture = shown if shown.ndim == 2 else (shown * std + mean).clamp(0, 1).permute(1, 2, 0)
            lines[line, b].imshow(picture.numpy(), cmap="magma")
            lines[line, b].set(xticks=[], yticks=[])
        lines[0, b].set_title(task.classes[label].replace(" or ", "\nor "), fontsize=8)
    for line, text in enumerate(("x", "similarity", "x'")):
        lines[line, 0].set_ylabel(text)


if __name__ == "__main__":
    main()
