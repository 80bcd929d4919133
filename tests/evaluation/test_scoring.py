from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from msgspec import structs
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from steadyclip.evaluation.heads import Head

from steadyclip.core.errors import UsageError
from steadyclip.data import ImageSet
from steadyclip.evaluation import evaluate, metrics, scoring, text_head
from steadyclip.evaluation.records import Record
from steadyclip.evaluation.run import MethodInfo, ModelInfo, Results, Run, TaskInfo, method_label
from steadyclip.evaluation.scoring import predict
from steadyclip.methods.base import Method, NoHead
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder

RUN = Run(
    created="2026-11-20T10:00:00+00:00",
    model=ModelInfo("tiny-clip", "clip", "0123456789abcdef"),
    method=MethodInfo("plain", {}, "plain"),
    recipe={"steps": 5},
    config={"seed": 2},
    task=TaskInfo("noise", "all", 16, 1, "feed", ("cat", "dog", "owl"), ("{}",), 48, 0),
    results=Results(5, 1.0, 100.0),
    versions={},
    commit=None,
)


@dataclass(frozen=True)
class Plain(Method):
    name = "plain"
    summary = source = "for tests"

    rank: int = 2
    towers: str = "both"


@dataclass(frozen=True)
class Nameless(Plain):
    def head(self, model, names, templates) -> Head:
        raise NoHead("knows no names")


@dataclass(frozen=True)
class Trained(Plain):
    recipe = Recipe(steps=1)


def test_the_record_says_in_which_precision_it_was_scored(model: DualEncoder, pictures: ImageSet) -> None:
    full, half = (evaluate(model, Trained(), pictures, drift=True, precision=p) for p in ("fp32", "bf16"))
    assert (full.precision, half.precision) == ("fp32", "bf16")
    assert full.metrics is not None
    assert half.metrics is not None
    assert full.metrics.ece != half.metrics.ece
    assert full.metrics.ece == pytest.approx(half.metrics.ece, abs=0.05)
    # nothing was trained: both sides of the drift are in the same precision
    assert half.drift is not None
    assert half.drift.image.cosine == pytest.approx(1, abs=1e-6)
    assert half.drift.text.cosine == pytest.approx(1, abs=1e-6)
    with pytest.raises(UsageError, match="precision='int8'"):
        evaluate(model, Plain(), pictures, precision="int8")  # pyright: ignore[reportArgumentType]


def test_record_equals_a_bare_loop(model: DualEncoder, pictures: ImageSet, pixels_and_labels) -> None:
    pixels, labels = pixels_and_labels
    with torch.no_grad():
        head = text_head(model, pictures.classes, pictures.templates)
        probabilities = head.logits(model.encode_image(pixels)).softmax(dim=-1)
    confidence, predicted = probabilities.max(dim=-1)
    record = evaluate(model, Plain(), pictures, batch_size=7)
    assert record.metrics is not None
    assert record.metrics.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert record.metrics.mean_per_class == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert record.metrics.ece == pytest.approx(metrics.ece(confidence, predicted == labels), abs=1e-5)
    assert record.metrics.interval95 == metrics.bootstrap_interval(predicted == labels)
    assert [(c.name, c.images) for c in record.per_class] == [("cat", 8), ("dog", 8), ("owl", 8)]
    assert sum(c.correct for c in record.per_class) == (predicted == labels).sum()
    wrong = [(pictures.classes[t], pictures.classes[p]) for t, p in zip(labels, predicted, strict=True) if t != p]
    assert {(c.true, c.predicted): c.count for c in record.confusions} == {pair: wrong.count(pair) for pair in wrong}
    counts = [c.count for c in record.confusions]
    assert counts == sorted(counts, reverse=True)


def test_confusions_show_the_surest_errors(model: DualEncoder, pictures: ImageSet) -> None:
    record = evaluate(model, Plain(), pictures)
    assert record.confusions, "noise must confuse a random model"
    most = record.confusions[0]
    assert len(most.examples) == min(3, most.count)
    for example in most.examples:
        assert example.key.startswith(f"{most.true}/")
        image = Image.open(io.BytesIO(base64.b64decode(example.thumbnail)))
        assert image.format == "PNG"
        assert max(image.size) <= 64


def test_what_a_record_says(model: DualEncoder, pictures: ImageSet) -> None:
    method = Trained(rank=4)
    record = evaluate(model, method, pictures, subset="base", templates=["{}"], run=RUN, note="its own classes")
    assert (record.shots, record.seed, record.training) == (16, 2, RUN)
    assert structs.asdict(record.method) == {
        "name": "plain",
        "knobs": {"rank": 4, "towers": "both"},
        "label": "plain (rank 4)",
        "files": {},
    }
    assert record.model.weights_hash == model.weights_hash
    assert (record.data.subset, record.data.domain, record.data.templates) == ("base", "lines", ("{}",))
    assert (record.data.hash, record.data.images, record.note) == (pictures.content, 24, "its own classes")
    assert set(record.versions) == {"steadyclip", "python", "torch", "transformers"}


def test_what_learns_nothing_has_no_shots_and_no_seed(model: DualEncoder, pictures: ImageSet) -> None:
    record = evaluate(model, Plain(), pictures, run=RUN)
    assert (record.shots, record.seed, record.training) == (None, None, None)


def test_record_survives_the_disk(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    record = evaluate(model, Plain(), pictures)
    assert Record.read(record.write(tmp_path / "r.json")) == record


def test_the_same_twice(model: DualEncoder, pictures: ImageSet) -> None:
    one, two = (evaluate(model, Plain(), pictures, batch_size=size) for size in (5, 24))
    same = {"created": "", "seconds": 0.0, "images_per_second": None}
    assert structs.replace(one, **same, metrics=None) == structs.replace(two, **same, metrics=None)
    assert one.metrics is not None
    assert two.metrics is not None
    assert one.metrics.top1 == two.metrics.top1
    assert one.metrics.ece == pytest.approx(two.metrics.ece, abs=1e-6)


def test_no_head_is_a_reason_and_reads_no_image(
    model: DualEncoder, pictures: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "image_features", None)
    record = evaluate(model, Nameless(), pictures)
    assert (record.metrics, record.reason, record.confusions) == (None, "knows no names", ())
    assert record.data.images == 24


def test_skipped_images_are_listed(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "images" / pictures.keys[4]).write_bytes(b"")
    record = evaluate(model, Plain(), pictures)
    assert record.data.images == 23
    assert [key for key, _ in record.data.skipped] == [pictures.keys[4]]


def test_the_cache_is_for_untrained_methods_only(model: DualEncoder, pictures: ImageSet, tmp_path: Path) -> None:
    evaluate(model, Trained(), pictures, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    fresh = evaluate(model, Plain(), pictures, cache=tmp_path / "cache")
    cached = evaluate(model, Plain(), pictures, cache=tmp_path / "cache")
    assert fresh.images_per_second is not None
    assert cached.images_per_second is None
    assert cached.metrics == fresh.metrics


def test_predict_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator), 2.0, tuple("abcd"))
    features_ND = torch.randn(11, 6, generator=generator)
    probabilities, expected = head.logits(features_ND).softmax(dim=-1).max(dim=-1)
    monkeypatch.setattr(scoring, "_CHUNK", 3)
    predicted_N, confidence_N = predict(head, features_ND)
    assert torch.equal(predicted_N, expected)
    torch.testing.assert_close(confidence_N, probabilities)


def test_method_label() -> None:
    assert method_label(Plain()) == "plain"
    assert method_label(Plain(rank=8, towers="image")) == "plain (rank 8, towers image)"


def test_progress_without_a_terminal(model: DualEncoder, pictures: ImageSet, capsys: pytest.CaptureFixture) -> None:
    evaluate(model, Plain(), pictures, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("noise: 24 images in ")
    assert "\x1b" not in captured.err
