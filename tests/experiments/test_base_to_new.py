"""Base-to-new from folder to table, with a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadyclip import load_data
from steadyclip.experiments.base_to_new import Plan, base_to_new
from steadyclip.experiments.demo import PLANS
from steadyclip.methods import Recipe, get_method
from steadyclip.models.testing import write_tiny
from steadyclip.report import main_table
from steadyclip.training import TrainConfig


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in range(5):
        (tmp_path / "photos" / f"class {label}").mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 90, (32, 32, 3)) + np.array([label * 40, 160 - label * 40, 80])
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / f"class {label}" / f"{i}.png")
    return tmp_path / "photos"


def test_records_of_every_method_seed_and_half(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_tiny("clip", tmp_path / "model")
    plans = [
        Plan("zero-shot"),
        Plan("linear-probe"),
        Plan("lora", {"rank": 4}, Recipe(learning_rate=1e-3, steps=3, batch_size=6)),
    ]
    said: list[str] = []

    def grid() -> list:
        return base_to_new(
            str(tmp_path / "model"), load_data(photos), plans, shots=3, seeds=(1, 2), out=tmp_path / "out",
            config=TrainConfig(progress=False), log=said.append,
        )  # fmt: skip

    records = grid()
    assert len(records) == 3 * 2 * 2
    assert said[0] == "zero-shot, seed 1: 3 base classes, 9 images"
    by = {(r.method.name, r.seed, r.data.subset): r for r in records}
    assert by["linear-probe", 1, "new"].metrics is None
    assert "knows no names" in (by["linear-probe", 1, "new"].reason or "")
    assert by["lora", 2, "base"].method.knobs["rank"] == 4
    assert by["lora", 2, "base"].data.classes == ("class 0", "class 1", "class 2")
    assert by["lora", 2, "new"].data.classes == ("class 3", "class 4")
    for seed in (1, 2):
        split = json.loads((tmp_path / "out" / f"lora-seed{seed}" / "split.json").read_text())
        assert len(split["train"]) == 9
    (section,) = main_table(records).sections
    assert section.rows[0].label == "zero-shot"
    assert len(section.rows) == 3

    trained = (tmp_path / "out" / "lora-seed1" / "trained.safetensors").stat().st_mtime_ns
    again = grid()
    assert [r.metrics for r in again] == [r.metrics for r in records]
    assert (tmp_path / "out" / "lora-seed1" / "trained.safetensors").stat().st_mtime_ns == trained


def test_the_plans_of_the_demo_are_valid() -> None:
    for name, plan in PLANS.items():
        assert plan.method == name
        get_method(plan.method, plan.knobs)
