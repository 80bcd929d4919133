"""DRA's mechanism where the generator knows which pixels are the drawing: a table and a figure.

    python recipes/mechanisms/dra.py [--out runs/mechanisms]

Tokens: how much more often than any token one of the drawing is in each rank group, per block, on clean and on
cluttered scenes, before and after the training; the same for the words of the class name in short and long prompts.
Prompts: base and new accuracy with the usual prompt and with one full of template words, with ranks by importance and
with uniform ranks. Writes results/dra-tokens.csv, results/dra-prompts.csv and docs/methods/dra-tokens.svg.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadyclip import DualEncoder, evaluate, get_method, load, load_data
from steadyclip.adapters import watch_tokens
from steadyclip.data import ImageSet
from steadyclip.models.loading import checkpoint_folder
from steadyclip_lab.suite.plan import DATA_SETS
from training import BLUE, GRAY, LONG, ORANGE, Trained, arguments, figure, trained, write_csv

SCENES = {"lab-things": "clean", "lab-clutter": "cluttered"}
ROWS = {"dra": "ranks by importance", "dra[assignment=uniform]": "uniform ranks"}
GROUPS = ("high rank", "middle", "low")
IMAGES = 400
DIFFERS, SHARE = 24, 0.02
"""A pixel shows the drawing where one of its 256 levels differs by more; a token, where so many of its pixels do."""

Line = tuple[object, ...]


def main() -> None:
    options = arguments(__doc__)
    tokens: list[Line] = []
    for name, scene in SCENES.items():
        test = load_data(name).test_set("base")
        rows = np.random.default_rng(0).permutation(len(test))[:IMAGES].tolist()
        shown_BP = drawn(name, test, rows)
        fresh, method = load("icons-small"), get_method("dra")
        method.attach(fresh, test.classes)
        tokens += of_images(fresh, test, rows, shown_BP, (scene, "before", ""))
        for seed in options.seeds:
            model = trained("dra", name, seed, options.out).model
            tokens += of_images(model, test, rows, shown_BP, (scene, "after", seed))
    prompts: list[Line] = []
    for seed in options.seeds:
        for text in ("short", "long"):
            for row in ROWS:
                one = trained(row, "lab-things", seed, options.out, LONG if text == "long" else None)
                if row == "dra":
                    tokens += of_words(one, text, seed)
                prompts += scores(one, (row, text, seed))
    write_csv("dra-tokens", ("where", "when", "seed", "block", "group", "times chance"), tokens)
    write_csv("dra-prompts", ("row", "trained with", "seed", "scored with", "half", "top1"), prompts)
    draw(tokens, prompts)


def drawn(name: str, test: ImageSet, rows: list[int], side: int = 8) -> Tensor:
    """Which patches show the drawing: (B, side * side)."""
    samples = {one.key: one for label in test.classes for one in DATA_SETS[name].samples(label)}
    found = []
    for row in rows:
        sample = samples[test.keys[row]]
        both = [
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
            for png in (sample.image(), sample.ground())
        ]
        found.append(np.abs(both[0] - both[1]).max(axis=2) > DIFFERS)
    pixels_BHW = torch.from_numpy(np.stack(found)).float()
    return torch.nn.functional.adaptive_avg_pool2d(pixels_BHW, side).flatten(1) > SHARE


def of_images(model: DualEncoder, test: ImageSet, rows: list[int], shown_BP: Tensor, about: Line) -> Iterator[Line]:
    """A line for each block and rank group."""
    images_BCHW = torch.stack([model.preprocess(test.read(row)) for row in rows])
    with torch.no_grad(), watch_tokens(model) as traces:
        model.encode_image(images_BCHW)
    for trace in traces:
        yield from times_chance(trace.block, trace.ranks_BN[:, 1:], shown_BP, about)  # without the summary token


def of_words(one: Trained, text: str, seed: int) -> Iterator[Line]:
    """The same for the words of the class names among all words of their prompts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder("icons-small"))
    template = one.task.templates[0]
    prompts = [template.replace("{}", name) for name in one.task.classes]
    with torch.no_grad(), watch_tokens(one.model) as traces:
        one.model.encode_text(prompts)
    start = template.index("{}")
    places = [tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"] for prompt in prompts]
    for trace in traces:
        ranks, shown = [], []
        for line, (offsets, name) in enumerate(zip(places, one.task.classes, strict=True)):
            for token, (first, last) in enumerate(offsets):
                if first < last:  # start and end of the text are no words
                    ranks.append(int(trace.ranks_BN[line, token]))
                    shown.append(start <= first < start + len(name))
        found = torch.tensor(ranks)[None], torch.tensor(shown)[None]
        yield from times_chance(trace.block, *found, (f"{text} prompts", "after", seed))


def times_chance(block: int, ranks_BP: Tensor, shown_BP: Tensor, about: Line) -> Iterator[Line]:
    """How often a shown token is in a group, over how often any token is."""
    for group, rank in zip(GROUPS, ranks_BP.unique(sorted=True).flip(0).tolist(), strict=True):
        within_BP = ranks_BP == rank
        yield (*about, block + 1, group, float(within_BP[shown_BP].float().mean() / within_BP.float().mean()))


def scores(one: Trained, about: Line) -> Iterator[Line]:
    """Accuracy on both halves with the usual prompt and the long one."""
    data = load_data("lab-things")
    for half in ("base", "new"):
        test = data.test_set(half)
        for text, templates in (("short", test.templates), ("long", (LONG,))):
            metrics = evaluate(one.model, one.method, test, templates=templates, precision="bf16").metrics
            assert metrics is not None
            yield (*about, text, half, metrics.top1)


def draw(tokens: list[Line], prompts: list[Line]) -> None:
    """Left: tokens of the drawing by group. Right: what long prompts cost on new."""
    with figure("dra-tokens", 9.2, 3.2) as drawn_figure:
        groups, costs = drawn_figure.subplots(1, 2, width_ratios=[3, 2])
        bars = [
            ("clean", "before"), ("clean", "after"), ("cluttered", "before"), ("cluttered", "after"),
            ("short prompts", "after"), ("long prompts", "after"),
        ]  # fmt: skip
        for place, group in enumerate(GROUPS):
            heights = [
                fmean(float(str(line[5])) for line in tokens if line[:2] == about and line[4] == group)
                for about in bars
            ]
            color = (BLUE, "#86b3da", "#c9d9ea")[place]
            groups.bar([i + 0.27 * (place - 1) for i in range(len(bars))], heights, 0.25, color=color, label=group)
        groups.axhline(1, color=GRAY, linewidth=0.8)
        groups.set_xticks(range(len(bars)), [f"{where} {when}".replace(" ", "\n") for where, when in bars], fontsize=8)
        groups.set_ylabel("times chance")
        groups.set_title("tokens of the drawing, words of the name, by rank group", fontsize=9)
        groups.legend(loc="upper left")
        for place, (row, label) in enumerate(ROWS.items()):
            for half, color in (("base", ORANGE), ("new", BLUE)):
                heights = [
                    100 * fmean(
                        float(str(line[5])) for line in prompts if line[:2] == (row, text) and line[3:5] == (text, half)
                    )
                    for text in ("short", "long")
                ]  # fmt: skip
                style = "-" if place == 0 else "--"
                costs.plot([0, 1], heights, style, color=color, marker="o", label=f"{half}, {label}")
        costs.set_xticks([0, 1], ["short prompts", "long prompts"])
        costs.set_ylabel("accuracy, %")
        costs.set_title("trained and scored with short or long prompts", fontsize=9)
        costs.legend(fontsize=7)


if __name__ == "__main__":
    main()
