"""What goes through the towers when a training is scored: each image once for each set of weights, each text once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from grid_world import table

from steadyclip.data import ImageSet, load_data
from steadyclip.evaluation import evaluate
from steadyclip.experiments.before_after import BeforeAfter, to_score
from steadyclip.methods import get_method
from steadyclip.models import DualEncoder, features
from steadyclip.models.testing import tiny
from steadyclip.testing import train_a_little
from steadyclip.training import load_run

FULL = "full[steps=2,batch_size=6,learning_rate=1e-3,warmup_steps=0]"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Rows that went through each tower, as trained or frozen, and images that were decoded."""
    counts: Counter[str] = Counter()
    run, read = DualEncoder.run, ImageSet.read

    def counted(model: DualEncoder, tower: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        size = len(inputs["input_ids"] if isinstance(inputs, dict) else inputs)
        counts[f"{tower} {'tuned' if model.tuned else 'frozen'}"] += size
        return run(model, tower, inputs, *args, **options)

    def decoded(images: ImageSet, *args: Any, **options: Any) -> Any:
        counts["decoded"] += 1
        return read(images, *args, **options)

    features._kept.clear()
    monkeypatch.setattr(DualEncoder, "run", counted)
    monkeypatch.setattr(ImageSet, "read", decoded)
    yield counts
    features._kept.clear()


def scored(world: Path, out: Path, rows: Counter[str], alphas: Sequence[float]) -> Counter[str]:
    """What scoring alone takes: the training is finished already."""
    table(world, out, [FULL], seeds=(1,))
    for record in out.glob("*/records/*.json"):
        record.unlink()
    for file in out.glob("features/*"):
        file.unlink()
    features._kept.clear()
    rows.clear()
    result = table(world, out, [FULL], seeds=(1,), wise_alphas=alphas)
    assert not result.failed
    assert len(result.records) == 2 * (1 + len(alphas))
    return rows


def test_base_and_new_take_each_image_once_for_each_set_of_weights(
    world: Path, tmp_path: Path, rows: Counter[str]
) -> None:
    images = len(load_data(str(world / "photos")).splits["test"])
    found = scored(world, tmp_path, rows, ())
    decoded = found.pop("decoded")
    # the drift compares with the frozen model, whose features are then kept on disk
    assert found == {"image tuned": images, "image frozen": images, "text tuned": 5, "text frozen": 5}
    assert images <= decoded <= 2 * images  # and once more the examples of errors that a record shows


def test_the_ends_of_a_curve_take_no_pass_of_their_own(world: Path, tmp_path: Path, rows: Counter[str]) -> None:
    images = len(load_data(str(world / "photos")).splits["test"])
    found = scored(world, tmp_path, rows, (0, 0.5, 1))
    assert found["image tuned"] == 2 * images  # as trained, and half way; alpha 1 is the first, alpha 0 is frozen
    assert found["image frozen"] == images


def test_a_curve_and_the_frozen_model_beside_it(world: Path, tmp_path: Path, rows: Counter[str]) -> None:
    """As ``evaluate --wise-curve`` does it: alpha 0 and the frozen model are one pass."""
    table(world, tmp_path, [FULL], seeds=(1,))
    (folder,) = (file.parent for file in tmp_path.glob("full*/trained.safetensors"))
    model, method, run = load_run(folder)
    features._kept.clear()
    rows.clear()
    data = load_data(str(world / "photos"))
    both = BeforeAfter(model, method, run, folder, alphas=(0.0, 0.5, 1.0), say=lambda line: None)
    records = both.score(to_score(data, run))
    assert len(records) == 2 * (3 + 1)
    images = len(data.splits["test"])
    assert rows["image tuned"] == 2 * images
    assert rows["image frozen"] == images


def test_the_next_training_finds_the_images_decoded(rows: Counter[str], world: Path) -> None:
    method, test = get_method("full"), load_data(str(world / "photos")).test_set()
    for decoded in (len(test), 0):
        model = tiny("clip")
        train_a_little(method, model)
        rows.clear()
        record = evaluate(model.eval(), method, test)
        examples = sum(len(confusion.examples) for confusion in record.confusions)
        assert rows["decoded"] == decoded + examples
