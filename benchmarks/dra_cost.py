"""What DRA costs beside a plain bottleneck adapter of rank 32: step time, peak memory, inference. One run, in turn.

    python benchmarks/dra_cost.py                            # a random ViT-B/16 CLIP; on the GPU if there is one
    python benchmarks/dra_cost.py --threads 1 --clock cpu    # on a machine that is shared with others

Speed and memory do not depend on what the weights are, so they are random. The adapters are compared under the same
objective: cross-entropy alone, and with the L1 term, which also encodes the images with the frozen model. Memory is the
peak of what tensors hold: as CUDA counts it, or of all storages that operators return.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from measuring import CLOCKS, LiveBytes, in_turn, random_vit_b16

from steadyclip import DualEncoder, get_method
from steadyclip.objectives import Batch
from steadyclip.training.step import Step

RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "bottleneck, rank 32": ("bottleneck", {"rank": 32}),
    "DRA, L1 off": ("dra", {"l1": "off"}),
    "bottleneck with L1": ("dra", {"ranks": (32,), "channel": "off"}),
    "DRA": ("dra", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=12, help="length of a prompt")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = random_vit_b16(tokens=options.tokens).to(options.device)
    batch = random_batch(options)
    print(
        f"ViT-B/16 CLIP, {options.batch} images, {options.classes} prompts of {options.tokens} tokens, fp32, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.runs}"
    )
    trainings = {name: Training(model, batch, options, *rival) for name, rival in RIVALS.items()}
    table("training step, s", seconds(trainings, options))
    table("peak memory of a training step, MiB", {name: rival.peak() / 2**20 for name, rival in trainings.items()})
    passes = {name: Inference(model, batch, options, *RIVALS[name]) for name in ("bottleneck, rank 32", "DRA")}
    frozen = Inference(model, batch, options, "zero-shot", {})
    table("encoding the images, s", seconds({"frozen model": frozen, **passes}, options))


def random_batch(options: argparse.Namespace) -> Batch:
    images_BCHW = torch.randn(options.batch, 3, 224, 224, device=options.device)
    return Batch(torch.arange(options.batch, device=options.device) % options.classes, images_BCHW=images_BCHW)


class Training:
    """One step of one method; the adapters are put on before each call, outside of the clock."""

    def __init__(
        self, model: DualEncoder, batch: Batch, options: argparse.Namespace, name: str, knobs: dict[str, Any]
    ) -> None:
        self.model, self.batch, self.method = model, batch, get_method(name, knobs)
        self.classes = [f"class {number}" for number in range(options.classes)]
        self.step: Step | None = None

    def prepare(self) -> None:
        self.model.detach_all()
        self.method.attach(self.model, self.classes)
        self.step = step = Step(self.method, self.model, self.classes, ["{}"])
        f = step.planner.features(self.classes, ["{}"], self.batch)
        texts = [read for read in step.reads if read.tower == "text" and read.state == "frozen"]
        step.planner.fill(f, texts)  # once per training

    def __call__(self) -> None:
        assert self.step is not None
        optimizer = torch.optim.SGD(self.step.trained.values(), lr=1e-6)
        self.step.gradients(self.batch, seed=0)
        optimizer.step()
        optimizer.zero_grad()

    def peak(self) -> int:
        """Bytes."""
        self.prepare()
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self()
            return torch.cuda.max_memory_allocated()
        with LiveBytes(self.model.parameters()) as live:
            self()
        return live.peak


class Inference(Training):
    @torch.inference_mode()
    def __call__(self) -> None:
        assert self.batch.images_BCHW is not None
        self.model.encode_image(self.batch.images_BCHW)


def seconds(rivals: Mapping[str, Training], options: argparse.Namespace) -> dict[str, float]:
    def prepare(name: str) -> None:
        rivals[name].prepare()

    return in_turn(options.runs, rivals, options.clock, options.device, prepare)


def table(what: str, values: dict[str, float]) -> None:
    """Each value and its ratio to the first."""
    first = next(iter(values.values()))
    print(what)
    for name, value in values.items():
        print(f"  {name:<20} {value:>9.4g}   ratio {value / first:.3f}", flush=True)


if __name__ == "__main__":
    main()
