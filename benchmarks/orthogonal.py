"""The orthogonal layer beside peft's OFT: the same random CLIP, the same blocks and batches, in one run, in turn.

    pip install peft
    python benchmarks/orthogonal.py                            # ViT-B/16, random weights: nothing is downloaded
    python benchmarks/orthogonal.py --batch 32 --device cuda --bf16
    python benchmarks/orthogonal.py --threads 1 --clock cpu    # on a machine that others use too

All turn the inputs of fc1 and fc2 in all blocks of both towers by four Cayley blocks each, as OrthCR does. "peft
neumann" is peft's own default, a truncated series in the place of the solve. "towers alone" trains the first norm of
each tower only: what a step costs without any of it.

Step: forward, backward and AdamW, medians. Memory: the peak of live tensors in a step, weights and optimizer included.
Ratios are over peft's exact solve: less is better. Inference: the merged model over one that was never adapted.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import CLOCKS, LiveBytes, in_turn, random_tokens, random_vit_b16
from torch import Tensor, nn

from steadyclip.adapters import Orthogonal
from steadyclip.models import DualEncoder

SIDES = ("steadyclip full", "steadyclip packed", "peft exact", "peft neumann", "towers alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    parser.add_argument("--classes", type=int, default=20, help="prompts in a step, of 16 tokens")
    parser.add_argument("--runs", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--layers", type=int, default=12, help="blocks of each tower; fewer for a quick look")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: where other programs run, with --threads 1"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import peft

    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    precision = "bf16" if options.bf16 else "fp32"
    print(
        f"ViT-B/16 with {options.layers} blocks, {options.batch} images, {options.classes} prompts, "
        f"{precision}, {where}, "
        f"{options.threads} threads, torch {torch.__version__}, peft {peft.__version__}, {options.runs} runs"
    )
    steps, counts, peaks = {}, {}, {}
    for side in SIDES:
        network, parameters = adapted(side, options)
        counts[side] = sum(p.numel() for p in parameters)
        nudge(parameters)
        steps[side] = training(network, parameters, options)
        with LiveBytes([*network.parameters(), *network.buffers(), *parameters]) as live:
            steps[side]()  # makes the optimizer's state
            live.peak = live.now
            steps[side]()
        peaks[side] = live.peak
    seconds = in_turn(options.runs, steps, options.clock, options.device)
    for side in SIDES:
        print(
            f"{side:<18} {counts[side]:>11,} parameters   step {seconds[side]:7.3f} s   ratio "
            f"{seconds[side] / seconds['peft exact']:.2f}   memory {peaks[side] / 2**20:6.0f} MiB   ratio "
            f"{peaks[side] / peaks['peft exact']:.2f}"
        )
    del steps, network, parameters
    plain, merged = random_clip(options), ours(options, "full")
    nudge(merged.adapters.parameters())
    merged.merge_adapters()
    images_BCHW, _, _ = data(options)
    calls = {"plain": inference(plain.network, images_BCHW), "merged": inference(merged.network, images_BCHW)}
    seconds = in_turn(max(10, options.runs), calls, options.clock, options.device)
    print(f"inference          plain {seconds['plain']:.3f} s   merged {seconds['merged']:.3f} s   ", end="")
    print(f"ratio {seconds['merged'] / seconds['plain']:.3f}")


def random_clip(options: argparse.Namespace) -> DualEncoder:
    model = random_vit_b16(options.layers)
    model.network.to(options.device).requires_grad_(False)
    return model


def ours(options: argparse.Namespace, storage: str) -> DualEncoder:
    model = random_clip(options)
    Orthogonal(storage=storage).attach(model)  # pyright: ignore[reportArgumentType]
    return model


def adapted(side: str, options: argparse.Namespace) -> tuple[Any, list[nn.Parameter]]:
    library, kind = side.split()
    if library == "steadyclip":
        model = ours(options, kind)
        return model.network, list(model.adapters.parameters())
    network: Any = random_clip(options).network
    if library == "towers":
        first = [network.vision_model.pre_layrnorm, network.text_model.encoder.layers[0].layer_norm1]
        return network, [norm.weight.requires_grad_() for norm in first]
    from peft import OFTConfig, inject_adapter_in_model

    config = OFTConfig(r=4, oft_block_size=0, target_modules=["fc1", "fc2"], use_cayley_neumann=kind == "neumann")
    network = inject_adapter_in_model(config, network)
    return network, [p for p in network.parameters() if p.requires_grad]


def data(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    images_BCHW = torch.randn(options.batch, 3, 224, 224, device=options.device)
    tokens_CL = random_tokens(options.classes, 16).to(options.device)
    return images_BCHW, tokens_CL, torch.randint(options.classes, (options.batch,), device=options.device)


def training(network: Any, parameters: list[nn.Parameter], options: argparse.Namespace) -> Callable[[], None]:
    """One step, as a call."""
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

    return step


def nudge(parameters: Any) -> None:
    """Away from the identity, so that nothing is cheap by accident."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.001 * torch.randn_like(parameter))


def inference(network: Any, images_BCHW: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def call() -> None:
        network.visual_projection(network.vision_model(pixel_values=images_BCHW).pooler_output)

    return call


if __name__ == "__main__":
    main()
