"""The losses of OrthCR and OrthSR against their formulas, their knobs, and what they compute how often."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from steadyclip.core.errors import UsageError
from steadyclip.data.cutout import attentive_cutout, cutout
from steadyclip.methods import Batch, get_method
from steadyclip.methods.base import knob_help
from steadyclip.methods.orthcr import OrthCR, OrthSR
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.testing import train_a_little

NAMES = ("cat", "dog", "sea lion", "owl")


def batch_for(model: DualEncoder, prompts: Any = None) -> Batch:
    images_BCHW = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    return Batch(images_BCHW, torch.arange(6) % 4, prompts or model.tokenize(NAMES), 0)


def trained(method) -> DualEncoder:
    model = tiny("clip")
    train_a_little(method, model, steps=4)
    return model


def terms_and_parts(method) -> tuple[dict[str, float], Any, Any, torch.Tensor]:
    """The method's terms; (features of x, of x', of texts) of the tuned and of the frozen model; labels."""
    model = trained(method)
    batch = batch_for(model)
    with torch.no_grad():
        torch.manual_seed(5)
        terms = {name: float(term) for name, term in method.loss(model, batch).items()}
        text0_CD = model.frozen_text(batch.prompts)
        with model.frozen():
            _, patch_BYXD = model.encode_patches(batch.images_BCHW)
        similarity_BYX = torch.stack(
            [patch_YXD @ text0_CD[label] for patch_YXD, label in zip(patch_BYXD, batch.labels_B, strict=True)]
        )
        torch.manual_seed(5)
        attentive = method.cutout == "attentive"
        cut = (
            attentive_cutout(batch.images_BCHW, similarity_BYX, method.side)
            if attentive
            else cutout(batch.images_BCHW, method.side)
        )
        tuned = model.encode_image(batch.images_BCHW), model.encode_image(cut), model.encode_text(batch.prompts)
        with model.frozen():
            frozen = model.encode_image(batch.images_BCHW), model.encode_image(cut), text0_CD
    scale = float(model.logit_scale)
    return (
        terms,
        [scale * f for f in tuned[:2]] + [tuned[2]],
        [scale * f for f in frozen[:2]] + [frozen[2]],
        batch.labels_B,
    )


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.softmax(1), q.softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def test_orthcr_equals_its_formula() -> None:
    terms, (x, cut, text), (x0, cut0, text0), labels = terms_and_parts(OrthCR(l1=2.0, l2=0.5))
    expected = {
        "cross_entropy": float(F.cross_entropy(x @ text.T, labels)),
        "regularization": 2.0 * (kl(x0 @ text0.T, x @ text0.T) + kl(x0 @ text0.T, x0 @ text.T)),
        "cross_entropy_cut": float(F.cross_entropy(cut @ text.T, labels)),
        "regularization_cut": 0.5 * (kl(cut0 @ text0.T, cut @ text0.T) + kl(cut0 @ text0.T, cut0 @ text.T)),
    }
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected["regularization"] > 1e-4


def test_orthcr_with_cross_entropy_equals_its_formula() -> None:
    terms, (x, _, text), (x0, _, text0), labels = terms_and_parts(OrthCR(cross="ce"))
    expected = F.cross_entropy(x @ text0.T, labels) + F.cross_entropy(x0 @ text.T, labels)
    assert terms["regularization"] == pytest.approx(1.5 * float(expected), rel=1e-4)


@pytest.mark.parametrize("kind", ["attentive", "plain"])
def test_orthsr_equals_its_formula(kind) -> None:
    terms, (x, cut, text), (x0, cut0, text0), labels = terms_and_parts(OrthSR(cutout=kind))
    expected = {
        "cross_entropy": float(F.cross_entropy(x @ text.T, labels)),
        "regularization": 1.5 * kl(x0 @ text0.T, x @ text.T),
        "cross_entropy_cut": float(F.cross_entropy(cut @ text.T, labels)),
        "regularization_cut": 1.0 * kl(cut0 @ text0.T, cut @ text.T),
    }
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_at_the_start_nothing_pulls_back() -> None:
    model = tiny("clip")
    method = OrthSR()
    method.adapt(model, NAMES)
    terms = method.loss(model, batch_for(model))
    assert float(terms["regularization"].detach()) == pytest.approx(0, abs=1e-6)


def test_switches_leave_terms_out() -> None:
    def terms(**knobs) -> set[str]:
        model, method = tiny("clip"), OrthSR(**knobs)
        method.adapt(model, NAMES)
        return set(method.loss(model, batch_for(model)))

    assert terms(cutout="off") == {"cross_entropy", "regularization"}
    assert terms(l1=0.0, l2=0.0) == {"cross_entropy", "cross_entropy_cut"}
    assert terms(l2=0.0) == {"cross_entropy", "cross_entropy_cut", "regularization"}
    assert terms(cutout="off", l1=0.0) == {"cross_entropy"}


@pytest.mark.parametrize(
    ("method", "frozen_images"),
    [
        (OrthCR(), [12]),
        (OrthSR(cutout="plain"), [12]),
        (OrthSR(), [6, 6]),  # the cut view is known only after the first pass
        (OrthCR(cutout="off"), [6]),
        (OrthCR(l1=0.0, l2=0.0), []),
        (OrthSR(l1=0.0, l2=0.0), [6]),  # for the cut alone
    ],
    ids=["cr", "sr plain", "sr", "no cut", "cr without", "sr without"],
)
def test_frozen_features_are_computed_once_per_batch_and_texts_once_per_run(method, frozen_images) -> None:
    model = tiny("clip")
    method.adapt(model, NAMES)
    seen: dict[str, list[tuple[bool, int]]] = {"image": [], "text": []}
    for tower in (model.image_tower, model.text_tower):

        def note(module, inputs, name=tower.name) -> None:
            seen[name].append((model._frozen_depth > 0, len(inputs[0])))

        tower.blocks[0].module.register_forward_pre_hook(note)
    prompts = model.tokenize(NAMES)
    for _ in range(3):
        method.loss(model, batch_for(model, prompts))
    views = 1 if method.cutout == "off" else 2
    assert [rows for frozen, rows in seen["image"] if frozen] == frozen_images * 3
    assert [rows for frozen, rows in seen["image"] if not frozen] == [6 * views] * 3
    assert [frozen for frozen, _ in seen["text"]].count(True) == 1
    assert len(seen["text"]) == 4


def test_regularization_holds_the_model_near_the_frozen_one() -> None:
    """On the batch that is trained on, more weight means closer predictions."""

    def distance(weight: float) -> float:
        model, method = tiny("clip"), OrthSR(l1=weight, l2=weight, cutout="plain")
        method.adapt(model, NAMES)
        batch = batch_for(model)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            torch.stack(list(method.loss(model, batch).values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            tuned = model.logits(model.encode_image(batch.images_BCHW), model.encode_text(batch.prompts))
            with model.frozen():
                frozen = model.logits(model.encode_image(batch.images_BCHW), model.encode_text(batch.prompts))
        return kl(frozen, tuned)

    assert distance(10.0) < 0.5 * distance(0.0)


def test_controls_train_what_they_say() -> None:
    def names(**knobs) -> set[str]:
        model = tiny("clip")
        get_method("orthcr", knobs).adapt(model, NAMES)
        return {name.removeprefix("adapters.orthogonal_") for name in model.trained_state()}

    assert names() == {"image.P.fc1", "image.P.fc2", "text.P.fc1", "text.P.fc2"}
    assert names(towers="image") == {"image.P.fc1", "image.P.fc2"}
    assert names(towers="text", layers="q,k,v,out") == {f"text.P.{layer}" for layer in ("q", "k", "v", "out")}


def test_every_knob_has_a_text_and_mistakes_are_one_clear_line() -> None:
    for cls in (OrthCR, OrthSR):
        assert set(knob_help(cls)) == set(cls().knobs())
    assert OrthSR().cutout == "attentive"
    for knobs, line in [
        ({"side": "1.0"}, "knob side=1.0 of method 'orthcr' must be a share between 0 and 1."),
        ({"l1": "-1"}, "knob l1=-1.0 of method 'orthcr' must be 0 or more."),
        ({"layers": "fc1,fc1"}, "knob layers=('fc1', 'fc1') of method 'orthcr' must be one layer or more, each once."),
        ({"constraint": "none", "storage": "packed"}, "knob storage='packed' of method 'orthcr' must be full"),
        ({"neumann_terms": 0}, "must be at least 1."),
    ]:
        with pytest.raises(UsageError) as caught:
            get_method("orthcr", knobs)
        assert line in str(caught.value)
