"""What a training step holds in memory: with many classes, and with a large batch in parts.

    python benchmarks/memory.py [--model icons-small | vit-b16]

Prints the peak bytes of all tensors that are alive (resident memory is no measure on a CPU, as the allocator keeps what
was freed), and their ratio:

- ``full`` among 1,000 classes and among 100, batches of 32;
- ``flyp`` with batches of 512 in 16 parts and with batches of 32, and how far its loss is from the whole batch's;
- how much longer the step with 1,000 classes takes than one that keeps the graph of all their texts.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from measuring import LiveBytes, random_vit_b16

from steadyclip import get_method, load
from steadyclip.methods import planner
from steadyclip.models import DualEncoder
from steadyclip.objectives import Batch
from steadyclip.training.step import Step

Model = DualEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="icons-small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = random_vit_b16() if options.model == "vit-b16" else load(options.model)
    many, few = (measured(model, "full", 32, classes) for classes in (1000, 100))
    print(f"full, 1,000 classes {mb(many)}, 100 classes {mb(few)}, ratio {many[0] / few[0]:.2f}")
    planner.TRAINED_AT_ONCE = 10**9
    whole = measured(model, "full", 32, 1000)
    print(f"full, 1,000 classes in one graph {mb(whole)}; in parts the step takes {many[1] / whole[1]:.2f} of its time")
    parts, small, whole = (measured(model, "flyp", *sizes) for sizes in ((512, 100, 16), (32, 100, 1), (512, 100, 1)))
    print(
        f"flyp, batch 512 in 16 parts {mb(parts)}, batch 32 {mb(small)}, ratio {parts[0] / small[0]:.2f}; batch 512 at "
        f"once {mb(whole)}, losses differ by {abs(parts[2] - whole[2]) / abs(whole[2]):.1e}"
    )


def measured(model: Model, name: str, images: int, classes: int, parts: int = 1) -> tuple[int, float, float]:
    """Peak bytes, seconds and loss of one step, after one to warm up."""
    model, method = copy.deepcopy(model), get_method(name)
    names = [f"thing {i // 26}{chr(97 + i % 26)}" for i in range(classes)]
    method.attach(model, names)
    step = Step(method, model, names, ["a drawing of a {}."], parts)
    draw = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 256, (images, 3, *model.preprocess.size), generator=draw, dtype=torch.uint8)
    labels = torch.randint(classes, (images,), generator=draw)
    batch = Batch(labels, tuple(map(str, range(images))), levels)
    step.gradients(batch, seed=0)
    start = time.process_time()
    step.gradients(batch, seed=0)
    seconds = time.process_time() - start
    live = LiveBytes([*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)])
    with live:
        loss = sum(float(term) for term in step.gradients(batch, seed=0).values())
    return live.peak, seconds, loss


def mb(found: tuple[int, float, float]) -> str:
    return f"{found[0] / 2**20:,.0f} MB"


if __name__ == "__main__":
    main()
