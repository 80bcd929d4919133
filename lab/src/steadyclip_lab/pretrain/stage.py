"""One stage of pretraining: a loop over steps that can be killed at any moment and started again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import write_atomic, writing
from steadyclip.core.seeds import step_seed
from steadyclip.methods.recipe import Recipe
from steadyclip.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from steadyclip.training.schedule import learning_rate, load_optimizer, make_optimizer, optimizer_tensors
from steadyclip_lab.pretrain.config import PretrainConfig

Log = Callable[[str], None]
Names = dict[nn.Parameter, str]

LOG_EVERY = 25
"""Steps that a line of the loss curve averages over."""


def run_stage(
    name: str,
    module: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    peak_rate: float,
    config: PretrainConfig,
    log: Log,
) -> None:
    """Trains ``module`` by AdamW with warm-up and cosine, or loads what an earlier run left of this stage.

    ``loss(step, generator)`` gives the loss of a step; the generator is seeded from (seed, stage, step), so a resumed
    stage sees what an uninterrupted one sees. Leaves checkpoints in ``<name>`` and the loss curve in
    ``<name>.jsonl``, both in ``config.out / "stages"``.
    """
    folder = config.out / "stages"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = {p: name for name, p in module.named_parameters() if p.requires_grad}
    recipe = Recipe(
        learning_rate=peak_rate, weight_decay=0.05, beta2=0.98, steps=steps, warmup_steps=max(1, steps // 20)
    )
    optimizer = make_optimizer(recipe, names)
    done = _resume(folder / name, module, optimizer, names, steps)
    curve = _trim(folder / f"{name}.jsonl", done)
    device = next(module.parameters()).device
    module.train()
    started = saved = reported = time.monotonic()
    first, total, count = done, torch.zeros((), device=device), 0
    with writing(curve), curve.open("a") as lines:
        for step in range(done, steps):
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(step_seed(config.seed, name, step))
            generator = torch.Generator().manual_seed(step_seed(config.seed, name, step, "loss"))
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                value = loss(step, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(names, 1.0)
            optimizer.step()
            total, count = total + value.detach(), count + 1
            last = step + 1 == steps
            if last or (step + 1) % LOG_EVERY == 0:
                mean = float(total) / count
                if not math.isfinite(mean):
                    raise SteadyClipError(
                        f"stage {name}: the loss is {mean} at step {step + 1}; lower the rate or use --precision fp32."
                    )
                lines.write(json.dumps({"step": step + 1, "loss": round(mean, 5), "rate": rate}) + "\n")
                lines.flush()
                now = time.monotonic()
                if last or now - reported > 20:
                    left = (now - started) / (step + 1 - first) * (steps - step - 1)
                    log(f"{name}: step {step + 1}/{steps}  loss {mean:.4f}  {left / 60:.1f} min left")
                    reported = now
                total, count = torch.zeros((), device=device), 0
                # only here, so that no line of the curve has to average over two runs
                if last or now - saved > 60 * config.checkpoint_minutes:
                    parts = {"module": module.state_dict(), "optimizer": optimizer_tensors(optimizer, names)}
                    save_checkpoint(folder / name, step + 1, parts, {})
                    saved = now
    module.eval()


def start_from(folder: Path, stage: str, module: nn.Module, part: str = "") -> None:
    """Sets ``module`` to what it was, as ``part`` of the stage's module, at the end of a stage of another pretraining.

    Raises:
        SteadyClipError: there is no such stage, or its model has other sizes.
    """
    checkpoint = newest_checkpoint(folder / "stages" / stage)
    if checkpoint is None:
        raise SteadyClipError(f"--start-from {folder}: no checkpoint in {folder / 'stages' / stage}.")
    _load(module, checkpoint, part, "give the same sizes (--width, --embed-dim, ...) as there")


def _resume(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, names: Names, steps: int) -> int:
    """Puts back the newest checkpoint in ``folder`` and returns its step; 0 when there is none."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return 0
    if checkpoint.step > steps:
        raise SteadyClipError(f"{checkpoint.path} is beyond the {steps} steps asked for: choose another --out.")
    _load(module, checkpoint, "", "choose another --out")
    load_optimizer(optimizer, names, checkpoint.tensors("optimizer"))
    return checkpoint.step


def _load(module: nn.Module, checkpoint: Checkpoint, part: str, remedy: str) -> None:
    tensors = checkpoint.tensors("module")
    state = {name[len(part) :]: tensor for name, tensor in tensors.items() if name.startswith(part)}
    try:
        module.load_state_dict(state)
    except RuntimeError:
        raise SteadyClipError(f"{checkpoint.path} is of another model: {remedy}.") from None


def _trim(path: Path, step: int) -> Path:
    """The loss curve up to ``step``: what a killed run logged after its last checkpoint is trained again."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = []
    for line in lines:
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except (ValueError, KeyError, TypeError):  # what a killed run had half written
            break
    write_atomic(path, "".join(line + "\n" for line in kept).encode())
    return path
