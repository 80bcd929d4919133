"""Base-to-new: train on the first half of the classes, score on both halves, each among its own names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.methods.recipe import Recipe
from steadyclip.training.config import TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.evaluation import Record


@dataclass(frozen=True)
class Plan:
    """One row of a table: a method, its knobs, and how it is trained (None: by its own recipe)."""

    method: str
    knobs: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None


def base_to_new(
    model: str,
    data: ImageData,
    plans: Sequence[Plan],
    *,
    shots: int,
    seeds: Sequence[int],
    out: Path,
    config: TrainConfig,
    log: Callable[[str], None],
) -> list[Record]:
    """Trains every plan on the base classes for every seed and scores it on base and on new classes.

    Run folders stand in ``out / "<method>-seed<seed>"`` with their records; finished ones are kept.
    The seed decides both the sample and the training, as in the field.

    Returns:
        Two records for each plan and seed: base, then new.
    """
    from steadyclip.evaluation import evaluate
    from steadyclip.methods import get_method
    from steadyclip.models import load
    from steadyclip.training import fit

    records = []
    for seed in seeds:
        task = data.task(shots=shots, seed=seed, subset="base")
        trained_on = {*task.train.keys, *task.val.keys}
        for plan in plans:
            method = get_method(plan.method, plan.knobs)
            folder = out / f"{plan.method}-seed{seed}"
            log(f"{plan.method}, seed {seed}: {len(task.classes)} base classes, {len(task.train)} images")
            encoder = load(model)
            result = fit(encoder, method, task, recipe=plan.recipe, config=replace(config, out=folder, seed=seed))
            for subset in ("base", "new"):
                test = data.test_set(subset, exclude=trained_on)
                record = evaluate(encoder, method, test, subset=subset, run=result.run, cache=config.cache)
                record.write(folder / "records" / f"{data.name}-{subset}.json")
                records.append(record)
    return records
