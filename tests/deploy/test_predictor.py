"""Predictions: equal to `evaluate`, to themselves in any batch, from any thread and any kind of picture."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import steadyclip as sc
from steadyclip.core.errors import UsageError
from steadyclip.data import UnreadableImage
from steadyclip.evaluation import Scorer
from steadyclip.heads import NoHead
from steadyclip.models import image_features
from steadyclip.training import load_run


@pytest.fixture(scope="module")
def files(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))[::7]


@pytest.mark.parametrize("row", ["lora[steps=3,learning_rate=0.05]", "tip-adapter", "cocoop[steps=1]"])
def test_says_what_evaluate_says(row: str, run_of, data, photos: Path) -> None:
    folder = run_of(row)
    model, method, run = load_run(folder)
    test = data.test_set()
    rows = image_features(model, test).rows
    predicted_N, confidence_N = Scorer(model, method, run.task.classes, run.task.templates).predict(rows)
    found = sc.Predictor(folder)([photos / key for key in test.keys], batch_size=5, top=2)
    assert [prediction.label for prediction in found] == [run.task.classes[i] for i in predicted_N]
    assert np.allclose([prediction.score for prediction in found], confidence_N, atol=1e-6)
    assert all(len(prediction.names) == 2 for prediction in found)


def test_any_kind_of_picture_any_batch_any_thread(run_of, files: list[Path]) -> None:
    predictor = sc.Predictor(run_of())
    expected = predictor(files, top=4)
    kinds = [Path.read_bytes, Image.open, lambda path: np.asarray(Image.open(path)), str]
    for kind in kinds:
        for prediction, want in zip(
            predictor([kind(path) for path in files], top=4, batch_size=3), expected, strict=True
        ):
            assert prediction.names == want.names
            assert np.allclose(prediction.probabilities, want.probabilities, atol=1e-6)
    one = predictor(files[0], top=4)
    assert (one.path, one.label) == (str(files[0]), expected[0].label)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: predictor(path, top=4), files * 2))
    assert [each.label for each in found] == [each.label for each in expected] * 2
    assert predictor(files, workers=1) == predictor(files)


def test_a_broken_picture_is_a_row_or_an_error(run_of, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    predictor = sc.Predictor(run_of())
    pictures = [files[0], tmp_path / "empty.png", tmp_path / "none.png", files[1]]
    with pytest.raises(UnreadableImage, match=r"empty\.png: the file is empty"):
        predictor(pictures)
    found = predictor(pictures, errors="return")
    assert [bool(each.error) for each in found] == [False, True, True, False]
    assert found[2].error == "no such file or directory"
    assert (found[1].label, found[1].names) == ("", ())
    with pytest.raises(UsageError, match="image 1: an array of float64"):
        predictor(np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match="image 2: int is no image"):
        predictor([files[0].read_bytes(), 3])


def test_thresholds(run_of, files: list[Path]) -> None:
    predictor = sc.Predictor(run_of())
    score = predictor(files[0]).score
    assert predictor(files[0], threshold=score).label
    assert not predictor(files[0], threshold=min(1.0, score + 1e-6)).sure
    assert predictor.threshold is None
    with pytest.raises(UsageError, match="must be from 0 to 1, or off"):
        predictor(files[0], threshold=2)


def test_other_names(run_of, files: list[Path]) -> None:
    predictor = sc.Predictor(run_of())
    other = predictor.with_names(["night", "day"], ["{} scene"])
    assert set(other(files[0]).names) == {"night", "day"}
    assert other.hash != predictor.hash
    assert predictor.with_names(predictor.names).hash == predictor.hash
    with pytest.raises(UsageError, match="'day' is given twice"):
        predictor.with_names(["day", "day"])
    probe = sc.Predictor(run_of("linear-probe"))
    assert probe.with_names(probe.names[:2])(files[0]).label in probe.names[:2]
    with pytest.raises(NoHead, match="cannot name new classes"):
        probe.with_names(["day", "night"])


def test_a_pretrained_model_by_names(run_of, files: list[Path]) -> None:
    model = run_of().parent / "model-clip"
    predictor = sc.Predictor(model, names=["day", "night"])
    f, g = predictor.embed(files), predictor.embed_text(["a photo of a day.", "a photo of a night."])
    logits = sc.load(model).logit_scale.item() * torch.from_numpy(f @ g.T)
    found = [prediction.score for prediction in predictor(files)]
    assert np.allclose(found, logits.softmax(-1).amax(-1), atol=1e-6)
    assert np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-6)
    with pytest.raises(UsageError, match="has no class names: give them with --names"):
        sc.Predictor(model)


def test_texts_where_tokens_are_made_for_each_class(run_of, files: list[Path]) -> None:
    predictor = sc.Predictor(run_of("tcp[steps=1]"))
    assert predictor(files[0]).label
    with pytest.raises(UsageError, match="takes no texts of your own: its learned tokens are made for each class"):
        predictor.embed_text("a red bicycle")


def test_importing_it_needs_no_torch() -> None:
    code = "import sys, steadyclip.deploy.predictor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
