from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import pytest
import torch
from msgspec import structs
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from steadyclip.adapters import Weights
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.data import ImageSet
from steadyclip.evaluation import Scorer, evaluate, metrics, scorer, scoring
from steadyclip.evaluation.paired import unpacked
from steadyclip.evaluation.records import MethodInfo, ModelInfo, Record, Results, Run, TaskInfo
from steadyclip.heads import LinearHead
from steadyclip.heads.linear import _LinearHead
from steadyclip.methods import Method, NoHead, Recipe, get_method
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from zero_shot import zero_shot_logits

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


class Plain(Method):
    name = "plain"
    summary = source = "for tests"

    rank: int = 2
    towers: str = "both"


class _Nameless(_LinearHead):
    def check_names(self, names) -> None:
        raise NoHead("knows no names")


class NamelessHead(LinearHead):
    def build(self, model, classes):
        return _Nameless(classes, self, model.embed_dim)


class Nameless(Plain):
    head = NamelessHead()


class Trained(Plain):
    adapters = (Weights(),)
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
        means = []
        for name in pictures.classes:
            means.append(model.encode_text([template.format(name) for template in pictures.templates]).mean(dim=0))
        text_CD = torch.nn.functional.normalize(torch.stack(means), dim=-1)
        probabilities = zero_shot_logits(model, model.encode_image(pixels), text_CD).softmax(dim=-1)
    confidence, predicted = probabilities.max(dim=-1)
    record = evaluate(model, Plain(), pictures, batch_size=7)
    assert record.metrics is not None
    assert record.metrics.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert record.metrics.mean_per_class == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert record.metrics.ece == pytest.approx(metrics.ece(confidence, predicted == labels), abs=1e-5)
    assert record.metrics.interval95 == metrics.bootstrap_interval(predicted == labels)
    assert [(c.name, c.images) for c in record.per_class] == [("cat", 8), ("dog", 8), ("owl", 8)]
    assert sum(c.correct for c in record.per_class) == (predicted == labels).sum()
    assert unpacked(record.correct, len(labels)).tolist() == (predicted == labels).tolist()
    assert record.groups == ""
    wrong = [(pictures.classes[t], pictures.classes[p]) for t, p in zip(labels, predicted, strict=True) if t != p]
    assert {(c.true, c.predicted): c.count for c in record.confusions} == {pair: wrong.count(pair) for pair in wrong}
    counts = [c.count for c in record.confusions]
    assert counts == sorted(counts, reverse=True)


def test_images_of_a_group_are_drawn_together(model: DualEncoder, pictures: ImageSet) -> None:
    paired = dataclasses.replace(pictures, groups=tuple(str(i // 2) for i in range(len(pictures))))
    record = evaluate(model, Plain(), paired)
    numbers = [i // 2 for i in range(len(pictures))]
    assert record.groups == " ".join(map(str, numbers))
    correct = torch.from_numpy(unpacked(record.correct, len(pictures)))
    assert record.metrics is not None
    assert record.metrics.interval95 == metrics.bootstrap_interval(correct, numbers)
    assert record.metrics.interval95 != metrics.bootstrap_interval(correct)


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
    run = structs.replace(RUN, method=MethodInfo.of(method))
    record = evaluate(model, method, pictures, subset="base", templates=["{}"], run=run, note="its own classes")
    assert (record.shots, record.seed, record.training) == (16, 2, run)
    assert structs.asdict(record.method) == {
        "name": "plain",
        "knobs": {"rank": 4, "towers": "both", "weights.towers": "both", "blocks": None},
        "label": "plain[rank=4]",
        "files": {},
        "origin": "",
        "own_classes": False,
    }
    assert record.model.weights_hash == model.weights_hash
    assert (record.data.subset, record.data.domain, record.data.templates) == ("base", "lines", ("{}",))
    assert (record.data.hash, record.data.images, record.note) == (pictures.content, 24, "its own classes")
    assert set(record.versions) == {"steadyclip", "python", "torch", "transformers"}


def test_what_learns_nothing_has_no_shots_and_no_seed(model: DualEncoder, pictures: ImageSet) -> None:
    record = evaluate(model, Plain(), pictures, run=RUN)
    assert (record.shots, record.seed, record.training) == (None, None, None)


def test_a_head_that_was_not_trained_is_no_score(pictures: ImageSet) -> None:
    with pytest.raises(ModelError, match="was not trained on tiny-clip: train it"):
        evaluate(tiny("clip"), get_method("linear-probe"), pictures)


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


def test_no_head_is_a_reason_and_reads_no_image(pictures: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "image_features", None)
    model = tiny("clip")
    Nameless().attach(model, pictures.classes)
    record = evaluate(model, Nameless(), pictures)
    assert (record.metrics, record.reason, record.confusions) == (None, "knows no names", ())
    assert record.data.images == 24


def test_each_method_is_scored_by_its_own_head_and_the_model_keeps_none(pictures: ImageSet) -> None:
    model = tiny("clip")
    assert evaluate(model, Plain(), pictures).metrics is not None
    assert model.head is None
    get_method("linear-probe").attach(model, ["cat"])
    assert evaluate(model, Plain(), pictures).metrics is not None
    assert evaluate(model, get_method("linear-probe"), pictures).metrics is None


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


def test_predict_in_chunks(model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"feature": torch.randn(11, model.embed_dim, generator=torch.Generator().manual_seed(0))}
    scores = Scorer(model, get_method("zero-shot"), tuple("abcd"), ("{}",))
    probabilities, expected = scores.logits(rows).softmax(dim=-1).max(dim=-1)
    monkeypatch.setattr(scorer, "_AT_ONCE", 3)
    predicted_N, confidence_N = scores.predict(rows)
    assert torch.equal(predicted_N, expected)
    torch.testing.assert_close(confidence_N, probabilities)


def test_method_label() -> None:
    assert MethodInfo.of(Plain()).label == "plain"
    assert MethodInfo.of(Plain(rank=8, towers="image")).label == "plain[rank=8,towers=image]"
    assert MethodInfo.of(Plain(rank=8), "as typed").label == "as typed"


def test_progress_without_a_terminal(model: DualEncoder, pictures: ImageSet, capsys: pytest.CaptureFixture) -> None:
    evaluate(model, Plain(), pictures, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("noise: 24 images in ")
    assert "\x1b" not in captured.err
