"""OrthCR's mechanism: how fast it learns, and what its map keeps: two tables and a figure.

    python recipes/mechanisms/orthcr.py [--out runs/mechanisms]

Speed: validation loss and accuracy on the way, 16 shots of lab-things, and the steps to the best value that every row
reaches, beside LoRA, full fine-tuning and the map without its constraint, which was not among those whose settings
were chosen and takes the best of three rates. Geometry: norms of the neurons and angles between them in the layers
that a row changes, and how far the maps are from orthogonal. Writes results/orthcr-speed.csv,
results/orthcr-geometry.csv and docs/methods/orthcr-speed.svg.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip import DualEncoder, load
from steadyclip.adapters.orthogonal import OrthogonalMaps
from training import BLUE, GRAY, GREEN, ORANGE, Trained, arguments, figure, trained, write_csv

DATA, EVERY = "lab-things", 15
ROWS = {"orthcr": BLUE, "orthcr[constraint=none]": GREEN, "lora": ORANGE, "full": GRAY}
RATES = ("6e-5", "1.7e-4", "5e-4")
"""Of the map without its constraint."""
LAYERS = ("q", "k", "v", "out", "fc1", "fc2")

Curve = list[tuple[int, float, float]]
"""Step, validation loss, validation accuracy."""
Line = tuple[object, ...]


def main() -> None:
    options = arguments(__doc__)
    curves: dict[str, list[Curve]] = {}
    geometry: list[Line] = []
    start = load("icons-small")
    for row in ROWS:
        chosen = best_rate(row, options.seeds[0], options.out)
        runs = [trained(chosen, DATA, seed, options.out, validate_every=EVERY) for seed in options.seeds]
        curves[row] = [curve(one.folder) for one in runs]
        for seed, one in zip(options.seeds, runs, strict=True):
            geometry.append((row, seed, *kept(start, one)))
    columns = "loss", "top1"
    level = [max(min(line[1] for line in mean(of_row)) for of_row in curves.values())]
    level.append(min(max(line[2] for line in mean(of_row)) for of_row in curves.values()))
    speed: list[Line] = []
    for row, of_row in curves.items():
        for what, number, reached in zip(columns, (1, 2), level, strict=True):
            better = -1 if what == "loss" else 1
            first = next(line[0] for line in mean(of_row) if better * line[number] >= better * reached)
            speed.append((row, what, reached, first))
            print(f"{row}: validation {what} {reached:.3f} after {first} steps")
    write_csv("orthcr-speed", ("row", "what", "level", "steps"), speed)
    names = ("row", "seed", "norms change by, median", "angles change by, median degrees", "largest", "from orthogonal")
    write_csv("orthcr-geometry", names, geometry)
    draw({row: mean(of_row) for row, of_row in curves.items()}, geometry)


def best_rate(row: str, seed: int, out: Path) -> str:
    """The row, with the rate of the lowest validation loss where none was chosen for it."""
    if "[" not in row:
        return row
    tried = [f"{row[:-1]},learning_rate={rate}]" for rate in RATES]
    last = [curve(trained(one, DATA, seed, out, validate_every=EVERY).folder)[-1][1] for one in tried]
    print(*(f"{one}: validation loss {loss:.3f} at the end" for one, loss in zip(tried, last, strict=True)), sep="\n")
    return tried[last.index(min(last))]


def curve(folder: Path) -> Curve:
    """What the log of a run says of the validation images."""
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["step"], row["validation_loss"], row["validation_top1"]) for row in rows if "validation_loss" in row]


def mean(of_seeds: list[Curve]) -> Curve:
    """The mean curve over seeds."""
    return [
        (lines[0][0], fmean(line[1] for line in lines), fmean(line[2] for line in lines))
        for lines in zip(*of_seeds, strict=True)
    ]


def kept(start: DualEncoder, one: Trained) -> tuple[float, float, float, float | None]:
    """Median change of a neuron's norm (a share), median and largest change of an angle between two neurons
    (degrees), over all changed layers; the largest entry of A^T A - I over all maps, None without maps."""
    maps = [
        A_Kcc
        for adapter in one.model.adapters.values()
        if isinstance(adapter, OrthogonalMaps)
        for of_layer in adapter.maps().values()
        for A_Kcc in of_layer
    ]
    drift = max((float((A.mT @ A - torch.eye(A.shape[-1])).abs().max()) for A in maps), default=None)
    one.method.merge(one.model)
    norms, angles = [], []
    for before, after in zip(weights(start), weights(one.model), strict=True):
        if not torch.equal(before, after):
            norms.append((after.norm(dim=1) / before.norm(dim=1) - 1).abs())
            angles.append((degrees(after) - degrees(before)).abs())
    norm, angle = torch.cat(norms), torch.cat(angles)
    return float(norm.median()), float(angle.median()), float(angle.max()), drift


def weights(model: DualEncoder) -> Iterator[Tensor]:
    """The matrices of all blocks of both towers, a neuron in each row, in float64."""
    for tower in (model.image_tower, model.text_tower):
        for block in tower.blocks:
            for layer in LAYERS:
                yield getattr(block, layer).weight.detach().double()


def degrees(weight_OI: Tensor) -> Tensor:
    """Angles between all pairs of neurons."""
    unit_OI = F.normalize(weight_OI, dim=1)
    row, column = torch.triu_indices(len(unit_OI), len(unit_OI), 1)
    return (unit_OI @ unit_OI.T)[row, column].clamp(-1, 1).arccos().rad2deg()


def draw(curves: dict[str, Curve], geometry: list[Line]) -> None:
    """Validation loss and accuracy over steps, and how much the angles between neurons changed."""
    with figure("orthcr-speed", 9.2, 2.9) as drawn:
        loss, top1, angle = drawn.subplots(1, 3)
        for (row, color), lines in zip(ROWS.items(), curves.values(), strict=True):
            steps, losses, accuracies = zip(*lines, strict=True)
            loss.plot(steps, losses, color=color, label=row)
            top1.plot(steps, [100 * value for value in accuracies], color=color)
        loss.set(title="validation loss", xlabel="step", yscale="log")
        top1.set(title="validation accuracy, %", xlabel="step")
        loss.legend(fontsize=7)
        medians = [fmean(float(str(line[3])) for line in geometry if line[0] == row) for row in ROWS]
        angle.barh(list(ROWS), medians, color=list(ROWS.values()))
        angle.invert_yaxis()
        angle.set(title="change of angles, degrees", xscale="log", xlabel="median over pairs of neurons")


if __name__ == "__main__":
    main()
