"""The orthogonal layer beside peft's OFT: the same random CLIP, the same blocks and batches, in one run, in turn.

    pip install peft
    python benchmarks/orthogonal.py                 # ViT-B/16, random weights: nothing is downloaded
    python benchmarks/orthogonal.py --batch 32 --device cuda

Both turn the inputs of fc1 and fc2 in all blocks of both towers by four exact Cayley blocks each, as OrthCR does.
"peft neumann" is peft's own default, a truncated series in the place of the solve.

Step time: forward, backward and AdamW, medians. Memory: the peak of three steps beyond what the process held before the
model was built, each side in a process of its own (resident memory on a CPU, allocated memory on CUDA). Ratios are ours
over peft's exact solve: less is better. Inference: the merged model over one that was never adapted.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.adapters import attach_orthogonal
from steadyclip.models import DualEncoder, Preprocess
from steadyclip.models.huggingface import HuggingFace, import_transformers

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SIDES = ("steadyclip full", "steadyclip packed", "peft exact", "peft neumann")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    parser.add_argument("--classes", type=int, default=20, help="prompts in a step, of 16 tokens")
    parser.add_argument("--runs", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: where other programs run, with --threads 1"
    )
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)  # what a child process measures
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(peak_memory(options.memory, options)))
        return
    import peft

    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"ViT-B/16, {options.batch} images, {options.classes} prompts, {'bf16' if options.bf16 else 'fp32'}, {where}, "
        f"{options.threads} threads, torch {torch.__version__}, peft {peft.__version__}, {options.runs} runs"
    )
    memory = {side: child(side) for side in SIDES}
    clock = CLOCKS[options.clock]
    seconds = in_turn(options.runs, {side: training(side, options) for side in SIDES}, clock)
    for side in SIDES:
        print(
            f"{side:<18} {memory[side]['parameters']:>11,} parameters   step {seconds[side]:7.3f} s   ratio "
            f"{seconds[side] / seconds['peft exact']:.2f}   memory {memory[side]['bytes'] / 2**20:7.0f} MiB   ratio "
            f"{memory[side]['bytes'] / memory['peft exact']['bytes']:.2f}"
        )
    plain, merged = random_clip(options.device), ours(random_clip(options.device), "full")
    nudge(merged.network, merged.adapters.parameters())
    merged.merge_adapters()
    images_BCHW, _, _ = data(options)
    calls = {"plain": inference(plain, images_BCHW), "merged": inference(merged.network, images_BCHW)}
    seconds = in_turn(max(10, options.runs), calls, clock)
    print(f"inference          plain {seconds['plain']:.3f} s   merged {seconds['merged']:.3f} s   ", end="")
    print(f"ratio {seconds['merged'] / seconds['plain']:.3f}")


def random_clip(device: str) -> nn.Module:
    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512)
    return transformers.CLIPModel(config).to(device).eval().requires_grad_(False)


def ours(network: Any, storage: str) -> DualEncoder:
    preprocess = Preprocess.parse({"size": {"height": 224, "width": 224}, "do_center_crop": False}, "clip", "benchmark")
    model = DualEncoder("random", network, HuggingFace("clip", None, 77, {}), preprocess)
    attach_orthogonal(model, layers=("fc1", "fc2"), storage=storage)
    return model


def adapted(side: str, device: str) -> tuple[Any, list[nn.Parameter]]:
    network = random_clip(device)
    library, kind = side.split()
    if library == "steadyclip":
        model = ours(network, kind)
        return network, list(model.adapters.parameters())
    from peft import OFTConfig, inject_adapter_in_model

    config = OFTConfig(r=4, oft_block_size=0, target_modules=["fc1", "fc2"], use_cayley_neumann=kind == "neumann")
    network = inject_adapter_in_model(config, network)
    return network, [p for p in network.parameters() if p.requires_grad]


def data(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    images_BCHW = torch.randn(options.batch, 3, 224, 224, device=options.device)
    tokens_CL = torch.randint(1000, 40000, (options.classes, 16), device=options.device)
    return images_BCHW, tokens_CL, torch.randint(options.classes, (options.batch,), device=options.device)


def training(side: str, options: argparse.Namespace) -> Callable[[], None]:
    """One step of ``side``, as a call."""
    network, parameters = adapted(side, options.device)
    nudge(network, parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    images_BCHW, tokens_CL, labels_B = data(options)

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            image_BD = network.visual_projection(network.vision_model(pixel_values=images_BCHW).pooler_output)
            text_CD = network.text_projection(network.text_model(input_ids=tokens_CL).pooler_output)
        image_BD, text_CD = F.normalize(image_BD.float(), dim=-1), F.normalize(text_CD.float(), dim=-1)
        F.cross_entropy(100 * image_BD @ text_CD.T, labels_B).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return synchronised(step, options.device)


def nudge(network: nn.Module, parameters: Any) -> None:
    """Away from the identity, so that nothing is cheap by accident."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.001 * torch.randn_like(parameter))


def inference(network: Any, images_BCHW: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def call() -> None:
        network.visual_projection(network.vision_model(pixel_values=images_BCHW).pooler_output)

    return synchronised(call, images_BCHW.device.type)


def synchronised(call: Callable[[], None], device: str) -> Callable[[], None]:
    def whole() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole


def in_turn(runs: int, calls: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, float]:
    """Medians of seconds, after one warm-up of each; every round begins with another one."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        call()
    for run in range(runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            start = clock()
            calls[name]()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def child(side: str) -> dict[str, int]:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory", side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak_memory(side: str, options: argparse.Namespace) -> dict[str, int]:
    import peft  # noqa: F401  (both sides carry the same imports)

    import_transformers().CLIPModel  # noqa: B018
    before = peak(options.device)
    parameters = sum(p.numel() for p in adapted(side, "meta")[1])
    step = training(side, options)
    for _ in range(3):
        step()
    return {"parameters": parameters, "bytes": peak(options.device) - before}


def peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Linux. The peak that getrusage gives is that of the parent process, if it was higher.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


if __name__ == "__main__":
    main()
