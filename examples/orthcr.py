"""OrthSR: train on half of the icon classes, score on both halves, and check that the neurons kept their angles.

    python examples/orthcr.py                    # icons-small and lab-things, a minute on two cores
    python examples/orthcr.py --method orthcr    # cross-regularization and plain Cutout instead
    python examples/orthcr.py --steps 275        # as long as in the tables

Orthogonal layer, Cutout and the terms of the loss are those of Li et al. 2024 (arXiv 2407.08374); what is not public is
our reading (docs/methods/orthcr.md).
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.nn.functional as F

from steadyclip import evaluate, fit, get_method, load, load_data
from steadyclip.methods import Recipe
from steadyclip.training import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("orthsr", "orthcr"), default="orthsr")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--test-images", type=int, default=300, help="scored in each half")
    options = parser.parse_args()

    data = load_data("lab-things")
    task = data.task(shots=options.shots, seed=1, subset="base")
    # A control is one knob away: constraint="none", l1=0 and l2=0, cut="off", towers="image", layers=("q", "k").
    model, method = load("icons-small"), get_method(options.method, {"l1": 0.5})
    # The recipe's rate is for ViT-B/16; icons-small is fifteen times smaller and wants larger steps.
    recipe = Recipe(learning_rate=3e-4, steps=options.steps, batch_size=32, warmup_steps=5, clip_norm=1.0)
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
        print(f"{half:5} zero-shot {frozen.top1:.1%}   {options.method} {tuned.top1:.1%}   ({len(test)} images)")

    merged = copy.deepcopy(model)
    merged.merge_adapters()  # plain CLIP weights: merged.save(folder) is a checkpoint for stock transformers
    before, after = (F.normalize(m.image_tower.blocks[-1].fc1.weight.detach(), dim=1) for m in (model, merged))
    moved = (before * after).sum(1).clamp(-1, 1).arccos().rad2deg().mean()
    apart = (before @ before.T - after @ after.T).abs().max()
    print(
        f"neurons of the last block turned by {moved:.2f} degrees, cosines between them changed by {apart:.0e} at most"
    )
    assert torch.allclose(before @ before.T, after @ after.T, atol=1e-4)


if __name__ == "__main__":
    main()
