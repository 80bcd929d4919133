"""What DRA costs beside a plain bottleneck adapter of rank 32: step time, peak memory, inference. One run, in turn.

    python benchmarks/dra_cost.py                     # a random ViT-B/16 CLIP; on the GPU if there is one
    python benchmarks/dra_cost.py --cpu-seconds       # on a machine that is shared with others

Speed and memory do not depend on what the weights are, so they are random. The adapters are compared under the same
objective: cross-entropy alone, and with the L1 term, which also encodes the images with the frozen model. Memory is the
peak of what tensors hold: as CUDA counts it, or of all storages that operators return.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steadyclip import DualEncoder, get_method
from steadyclip.methods import Batch
from steadyclip.models import Preprocess
from steadyclip.models.huggingface import HuggingFace, import_transformers

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
    parser.add_argument("--cpu-seconds", action="store_true", help="of this process, instead of seconds on the wall")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    model = random_clip().to(options.device)
    batch = random_batch(options)
    print(
        f"ViT-B/16 CLIP, {options.batch} images, {options.classes} prompts of {options.tokens} tokens, fp32, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.runs}"
    )
    trainings = {name: Training(model, batch, *rival) for name, rival in RIVALS.items()}
    table("training step, s", in_turn(trainings, options, clock))
    table("peak memory of a training step, MiB", {name: rival.peak() / 2**20 for name, rival in trainings.items()})
    passes = {name: Inference(model, batch, *RIVALS[name]) for name in ("bottleneck, rank 32", "DRA")}
    frozen = Inference(model, batch, "zero-shot", {})
    table("encoding the images, s", in_turn({"frozen model": frozen, **passes}, options, clock))


def random_clip() -> DualEncoder:
    """The architecture of CLIP ViT-B/16."""
    transformers = import_transformers()
    torch.manual_seed(0)
    network = transformers.CLIPModel(transformers.CLIPConfig(vision_config={"patch_size": 16}))
    backend = HuggingFace("clip", tokenizer=None, context=77, image_settings={})
    return DualEncoder("random ViT-B/16", network, backend, Preprocess.parse({}, "clip", "the defaults"))


def random_batch(options: argparse.Namespace) -> Batch:
    ids_CL = torch.randint(1000, 40000, (options.classes, options.tokens))
    ids_CL[:, -1] = 49407  # end of text
    return Batch(
        torch.randn(options.batch, 3, 224, 224, device=options.device),
        torch.arange(options.batch, device=options.device) % options.classes,
        {"input_ids": ids_CL.to(options.device)},
        step=0,
    )


class Training:
    """One step of one method; the adapters are put on before each call, outside of the clock."""

    def __init__(self, model: DualEncoder, batch: Batch, name: str, knobs: dict[str, Any]) -> None:
        self.model, self.batch, self.method = model, batch, get_method(name, knobs)

    def prepare(self) -> None:
        self.model.detach_all()
        self.method.adapt(self.model, [])
        self.model.frozen_text(self.batch.prompts)  # once per training

    def __call__(self) -> None:
        optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=1e-6)
        torch.stack(list(self.method.loss(self.model, self.batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def peak(self) -> int:
        """Bytes."""
        self.prepare()
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self()
            return torch.cuda.max_memory_allocated()
        with LiveBytes(self.model) as live:
            self()
        return live.peak


class Inference(Training):
    @torch.inference_mode()
    def __call__(self) -> None:
        self.model.encode_image(self.batch.images_BCHW)


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all storages that operators return, and of the weights, while they are alive."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()
        for parameter in model.parameters():
            self._add(parameter.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def in_turn(rivals: dict[str, Training], options: argparse.Namespace, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each after a warm-up; the order rotates, so that none is always the first."""
    names, times = list(rivals), {name: [] for name in rivals}
    for run in range(-1, options.runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            rivals[name].prepare()
            synchronize(options.device)
            start = clock()
            rivals[name]()
            synchronize(options.device)
            if run >= 0:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def table(what: str, values: dict[str, float]) -> None:
    """Each value and its ratio to the first."""
    first = next(iter(values.values()))
    print(what)
    for name, value in values.items():
        print(f"  {name:<20} {value:>9.4g}   ratio {value / first:.3f}", flush=True)


if __name__ == "__main__":
    main()
