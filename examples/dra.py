"""DRA: train on half of the icon classes, score on both halves, and look at who got which rank.

    python examples/dra.py                 # icons-small and lab-things, a minute on two cores
    python examples/dra.py --steps 275     # as long as in the tables

DRA is dynamic rank adaptation (Wang et al. 2025, arXiv 2507.05668). The paper states that tokens are grouped by
importance and that important ones are adapted with a higher rank; the formulas are our reading (docs/methods/dra.md).
"""

from __future__ import annotations

import argparse

import torch

from steadyclip import evaluate, fit, get_method, load, load_data
from steadyclip.adapters import watch_tokens
from steadyclip.methods import Recipe
from steadyclip.training import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--test-images", type=int, default=300, help="scored in each half")
    options = parser.parse_args()

    data = load_data("lab-things")
    task = data.task(shots=options.shots, seed=1, subset="base")
    # Tokens in three groups of equal size; a control is one knob away: assignment="inverse", channel="off", l1="off".
    model, method = load("icons-small"), get_method("dra", {"ranks": (32, 16, 8), "l1_weight": 0.5})
    # The published recipe is for ViT-B/16; icons-small is fifteen times smaller and wants larger steps, and few.
    recipe = Recipe(learning_rate=9e-3, steps=options.steps, batch_size=32, warmup_steps=5, clip_norm=1.0)
    config = TrainConfig(seed=1, smallest_crop=0.6, progress=False)  # a small part of a drawing shows nothing
    result = fit(model, method, task, recipe=recipe, config=config)
    trained = sum(p.numel() for p in model.adapters.parameters())
    print(f"{trained} parameters trained in {result.seconds:.0f} s")

    for half in ("base", "new"):
        test = data.test_set(half).unlike(task.digests)
        test = test.subset(range(0, len(test), max(1, len(test) // options.test_images)))
        tuned = evaluate(model, method, test, subset=half).metrics
        with model.frozen():
            frozen = evaluate(model, method, test, subset=half).metrics
        assert tuned is not None
        assert frozen is not None
        print(f"{half:5} zero-shot {frozen.top1:.1%}   DRA {tuned.top1:.1%}   ({len(test)} images)")

    with torch.no_grad(), watch_tokens(model) as traces:
        model.encode_text(["a pixel icon of a violin."])
    last = traces[-1]
    print("ranks of the last block, token by token:", *last.ranks_BN[0].tolist())


if __name__ == "__main__":
    main()
