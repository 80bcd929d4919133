"""What the benchmarks share: a fair clock, a count of live bytes, a CLIP of the common size."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steadyclip.models import DualEncoder, Preprocess
from steadyclip.models.huggingface import HuggingFace, import_transformers

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""cpu: seconds of this process, for a machine that others use too; only with one thread do they mean something."""


def in_turn(
    runs: int,
    calls: Mapping[str, Callable[[], None]],
    clock: str = "wall",
    device: str = "cpu",
    prepare: Callable[[str], None] = lambda name: None,
) -> dict[str, float]:
    """Median seconds of each call after a warm-up of each; the order rotates, so that none is always the first.

    ``prepare`` is told whose turn it is, outside of the clock.
    """
    names, tick = list(calls), CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in range(-1, runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            prepare(name)
            _synchronize(device)
            start = tick()
            calls[name]()
            _synchronize(device)
            if run >= 0:
                times[name].append(tick() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that are alive, on any device: ``now`` and their ``peak``, ``tensors`` from the start.

    The resident memory of a process is no measure on a CPU: the allocator keeps what was freed.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def random_vit_b16(blocks: int = 12, tokens: int = 16) -> DualEncoder:
    """CLIP ViT-B/16 with random weights, on which speed and memory do not depend, and a stand-in for the tokenizer, so
    many tokens for every text: nothing is downloaded."""

    class Words(HuggingFace):
        def tokenize(self, texts, context=None):
            return {"input_ids": random_tokens(len(texts), tokens)}

    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={"eos_token_id": 49407, "num_hidden_layers": blocks},
        vision_config={"patch_size": 16, "num_hidden_layers": blocks},
    )
    network = transformers.CLIPModel(config).eval()
    preprocess = Preprocess((224, 224), "shortest", (224, 224), True, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return DualEncoder("random ViT-B/16", network, Words("clip", None, 77, {}), preprocess)


def random_tokens(texts: int, length: int) -> Tensor:
    """Prompts of ``length`` tokens, the last of them end of text."""
    ids_ML = torch.randint(1000, 40000, (texts, length), generator=torch.Generator().manual_seed(1))
    ids_ML[:, -1] = 49407
    return ids_ML
