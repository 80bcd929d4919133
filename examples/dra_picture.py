"""Draw which tokens DRA finds important and the ranks they get, from a real run: docs/methods/dra.png.

python examples/dra_picture.py --out docs/methods/dra.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from steadyclip import DualEncoder, fit, get_method, load, load_data
from steadyclip.adapters import TokenTrace, watch_tokens
from steadyclip.data import ImageSet
from steadyclip.methods import Recipe
from steadyclip.models.loading import checkpoint_folder
from steadyclip.training import TrainConfig

BLUES = ("#c6dbef", "#6baed6", "#08519c")  # from the lowest rank to the highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dra.png"))
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    data = load_data("lab-things")
    model, method = load("icons-small"), get_method("dra")
    recipe = Recipe(learning_rate=9e-3, steps=options.steps, batch_size=32, warmup_steps=5, clip_norm=1.0)
    task = data.task(shots=options.shots, seed=1, subset="base")
    fit(model, method, task, recipe=recipe, config=TrainConfig(seed=1, progress=False))
    test = data.test_set()
    rows = [test.labels.index(label) for label in range(3)]
    prompts = [test.templates[0].format(name) for name in test.classes[:3]]
    draw(model, test, rows, prompts, method.knobs()["ranks"]).savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


def draw(model: DualEncoder, test: ImageSet, rows: list[int], prompts: list[str], ranks: tuple[int, ...]) -> Figure:
    """One line for each image (first and last adapted block), then one for each prompt (last block)."""
    pixels_BCHW = torch.stack([model.preprocess(test.read(row)) for row in rows])
    with torch.no_grad(), watch_tokens(model) as traces:
        model.encode_image(pixels_BCHW)
        model.encode_text(prompts)
    image = [trace for trace in traces if trace.tower == "image"]
    text = [trace for trace in traces if trace.tower == "text"][-1]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9.2, 1.85 * len(rows) + 1.25 * len(prompts) + 0.5), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.85 * len(rows) + 0.5, 1.25 * len(prompts)])
        axes: Any = parts[0].subplots(len(rows), 5)
        for line, row in enumerate(rows):
            axes[line, 0].imshow(test.read(row).convert("RGB"))
            axes[line, 0].set_ylabel(test.classes[test.labels[row]])
            for first, trace in ((1, image[0]), (3, image[-1])):
                draw_patches(axes[line, first], axes[line, first + 1], trace, line, ranks)
        for column, trace in ((1, image[0]), (3, image[-1])):
            axes[0, column].set_title(f"scores, block {trace.block + 1}")
            axes[0, column + 1].set_title(f"ranks, block {trace.block + 1}")
        axes[0, 0].set_title("test image")
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        lines: Any = parts[1].subplots(len(prompts), 1)
        for line, axis in enumerate(lines):
            draw_words(axis, text, line, words(prompts[line]), ranks)
        lines[0].set_title(f"scores (height) and ranks (color) of the tokens of a prompt, block {text.block + 1}")
        patches = [Patch(color=c, label=f"rank {r}") for r, c in zip(ranks, shades(ranks)[::-1], strict=True)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(ranks), frameon=False)
    return figure


def draw_patches(scores: Any, grid: Any, trace: TokenTrace, line: int, ranks: tuple[int, ...]) -> None:
    """The patches of one image; its summary token, which stands in no patch, is told below."""
    scores_N, ranks_N = trace.scores_BN[line].numpy(), trace.ranks_BN[line].numpy()
    side = int(np.sqrt(len(scores_N) - 1))
    scores.imshow(scores_N[1:].reshape(side, side), cmap="magma")
    scores.set_xlabel(f"CLS itself {scores_N[0]:.0%}", fontsize=7)
    level = np.searchsorted(sorted(ranks), ranks_N[1:]).reshape(side, side)
    grid.imshow(level, cmap=ListedColormap(shades(ranks)), vmin=0, vmax=len(ranks) - 1)


def draw_words(axis: Any, trace: TokenTrace, line: int, labels: list[str], ranks: tuple[int, ...]) -> None:
    colors = dict(zip(sorted(ranks), shades(ranks), strict=True))
    heights = trace.scores_BN[line, : len(labels)].tolist()
    used = trace.ranks_BN[line, : len(labels)].tolist()
    axis.bar(range(len(labels)), heights, color=[colors[rank] for rank in used], edgecolor="#08306b", linewidth=0.5)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)


def words(prompt: str) -> list[str]:
    """The tokens of a prompt as the tokenizer of icons-small spells them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder("icons-small"))
    names = {tokenizer.bos_token: "start", tokenizer.eos_token: "end"}
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
    return [names.get(token, str(token).replace("</w>", "")) for token in tokens]


def shades(ranks: tuple[int, ...]) -> list[str]:
    """A color for each rank, lowest first."""
    return list(BLUES[-len(ranks) :])


if __name__ == "__main__":
    main()
