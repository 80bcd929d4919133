"""One stage of pretraining: a loop over steps that can be killed at any moment and started again."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steadyclip.errors import SteadyClipError
from steadyclip.training.pretrain.config import PretrainConfig

Log = Callable[[str], None]

LOG_EVERY = 25
"""Steps that a line of the loss curve averages over."""


def run_stage(
    name: str,
    module: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    config: PretrainConfig,
    log: Log,
) -> None:
    """Trains ``module`` by AdamW with warm-up and cosine, or loads what an earlier run left of this stage.

    ``loss(step, generator)`` gives the loss of a step; the generator is seeded from (seed, stage, step), so a resumed
    stage sees what an uninterrupted one sees. Leaves ``<name>.safetensors`` (weights and optimizer) and
    ``<name>.jsonl`` (the loss curve) in ``config.out / "stages"``.
    """
    folder = config.out / "stages"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    done = _load(folder / f"{name}.safetensors", module, optimizer, steps)
    curve = _trim(folder / f"{name}.jsonl", done)
    device = next(module.parameters()).device
    warmup = max(1, steps // 20)
    module.train()
    started = saved = reported = time.monotonic()
    first, total, count = done, torch.zeros((), device=device), 0
    with curve.open("a") as lines:
        for step in range(done, steps):
            scale = (
                (step + 1) / warmup
                if step < warmup
                else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
            torch.manual_seed(_seed(config.seed, name, step))
            generator = torch.Generator().manual_seed(_seed(config.seed, name, step) + 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                value = loss(step, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            total, count = total + value.detach(), count + 1
            last = step + 1 == steps
            if last or (step + 1) % LOG_EVERY == 0:
                mean = float(total) / count
                if not math.isfinite(mean):
                    raise SteadyClipError(
                        f"stage {name}: the loss is {mean} at step {step + 1}; lower the rate or use --precision fp32."
                    )
                lines.write(
                    json.dumps({"step": step + 1, "loss": round(mean, 5), "rate": learning_rate * scale}) + "\n"
                )
                lines.flush()
                now = time.monotonic()
                if last or now - reported > 20:
                    left = (now - started) / (step + 1 - first) * (steps - step - 1)
                    log(f"{name}: step {step + 1}/{steps}  loss {mean:.4f}  {left / 60:.1f} min left")
                    reported = now
                total, count = torch.zeros((), device=device), 0
                # only here, so that no line of the curve has to average over two runs
                if last or now - saved > 60 * config.checkpoint_minutes:
                    _save(folder / f"{name}.safetensors", module, optimizer, step + 1)
                    saved = now
    module.eval()


def _seed(seed: int, stage: str, step: int) -> int:
    return (seed * 1_000_003 + sum(map(ord, stage))) * 2_000_003 + 2 * step


def _save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"module.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    os.replace(partial, path)


def _load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> int:
    if not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    try:
        module.load_state_dict({k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")})
    except RuntimeError:
        raise SteadyClipError(
            f"{path} was made with other sizes; choose another --out or delete {path.parent}."
        ) from None
    if step > steps:
        raise SteadyClipError(
            f"{path} is at step {step}, beyond the {steps} asked for; choose another --out or delete it."
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _trim(path: Path, step: int) -> Path:
    """The loss curve up to ``step``: what a killed run logged after its last checkpoint is trained again."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept))
    return path
