"""The losses of OrthCR and OrthSR against their formulas, and their knobs. Passes are counted in test_passes.py."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from method_world import NAMES, TEMPLATES, attached, encoded, make_batch, terms, trained
from steadyclip.core.errors import UsageError
from steadyclip.data.cutout import attentive_cutout, cutout
from steadyclip.methods import get_method
from steadyclip.methods.knobs import knobs_of
from steadyclip.methods.orthcr import OrthCR, OrthSR
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.testing import train_a_little
from steadyclip.training.step import Step
from zero_shot import zero_shot_logits


def trained_a_little(method) -> DualEncoder:
    model = tiny("clip")
    train_a_little(method, model, steps=4)
    return model


def terms_and_parts(method) -> tuple[dict[str, float], Any, Any, torch.Tensor]:
    """The method's terms; (features of x, of x', of texts) of the tuned and of the frozen model; labels."""
    model, batch = trained_a_little(method), make_batch()
    images_BCHW = batch.images_BCHW
    found = {name: float(term) for name, term in terms(method, model, batch, seed=5).items()}
    with torch.no_grad():
        with model.frozen():
            _, text0_CD = encoded(model, batch)
            _, patch_BYXD = model.encode_patches(images_BCHW)
        similarity_BYX = torch.stack(
            [patch_YXD @ text0_CD[label] for patch_YXD, label in zip(patch_BYXD, batch.labels_B, strict=True)]
        )
        attentive = method.cut == "attentive"
        cut = (
            attentive_cutout(images_BCHW, similarity_BYX, method.side)
            if attentive
            else cutout(images_BCHW, method.side, [f"5/cutout/{key}" for key in batch.keys])
        )
        (x, text_CD), cut_BD = encoded(model, batch), model.encode_image(cut)
        with model.frozen():
            x0, cut0_BD = model.encode_image(images_BCHW), model.encode_image(cut)
    scale = float(model.logit_scale)
    return found, [scale * x, scale * cut_BD, text_CD], [scale * x0, scale * cut0_BD, text0_CD], batch.labels_B


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.softmax(1), q.softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def test_orthcr_equals_its_formula() -> None:
    found, (x, cut, text), (x0, cut0, text0), labels = terms_and_parts(OrthCR(l1=2.0, l2=0.5))
    expected = {
        "cross_entropy": float(F.cross_entropy(x @ text.T, labels)),
        "consistency": 2.0 * (kl(x0 @ text0.T, x @ text0.T) + kl(x0 @ text0.T, x0 @ text.T)),
        "cross_entropy_cut": float(F.cross_entropy(cut @ text.T, labels)),
        "consistency_cut": 0.5 * (kl(cut0 @ text0.T, cut @ text0.T) + kl(cut0 @ text0.T, cut0 @ text.T)),
    }
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected["consistency"] > 1e-4


def test_orthcr_with_cross_entropy_equals_its_formula() -> None:
    found, (x, _, text), (x0, _, text0), labels = terms_and_parts(OrthCR(cross="ce"))
    expected = F.cross_entropy(x @ text0.T, labels) + F.cross_entropy(x0 @ text.T, labels)
    assert found["crossed_entropy"] == pytest.approx(1.5 * float(expected), rel=1e-4)


@pytest.mark.parametrize("kind", ["attentive", "plain"])
def test_orthsr_equals_its_formula(kind) -> None:
    found, (x, cut, text), (x0, cut0, text0), labels = terms_and_parts(OrthSR(cut=kind))
    expected = {
        "cross_entropy": float(F.cross_entropy(x @ text.T, labels)),
        "consistency": 1.5 * kl(x0 @ text0.T, x @ text.T),
        "cross_entropy_cut": float(F.cross_entropy(cut @ text.T, labels)),
        "consistency_cut": 1.0 * kl(cut0 @ text0.T, cut @ text.T),
    }
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_at_the_start_nothing_pulls_back() -> None:
    method = OrthSR()
    found = terms(method, attached(method), make_batch())
    assert float(found["consistency"]) == pytest.approx(0, abs=1e-6)


def test_switches_leave_terms_out() -> None:
    def labels(**knobs) -> set[str]:
        method = OrthSR(**knobs)
        return set(terms(method, attached(method), make_batch()))

    assert labels(cut="off") == {"cross_entropy", "consistency"}
    assert labels(l1=0.0, l2=0.0) == {"cross_entropy", "cross_entropy_cut"}
    assert labels(l2=0.0) == {"cross_entropy", "cross_entropy_cut", "consistency"}
    assert labels(cut="off", l1=0.0) == {"cross_entropy"}


def test_regularization_holds_the_model_near_the_frozen_one() -> None:
    """On the batch that is trained on, more weight means closer predictions."""

    def distance(weight: float) -> float:
        method = OrthSR(l1=weight, l2=weight, cut="plain")
        model, batch = attached(method), make_batch()
        trained(Step(method, model, NAMES, TEMPLATES), batch, 12, 3e-3)
        tuned = zero_shot_logits(model, *encoded(model, batch))
        with model.frozen():
            frozen = zero_shot_logits(model, *encoded(model, batch))
        return kl(frozen, tuned)

    assert distance(10.0) < 0.5 * distance(0.0)


def test_controls_train_what_they_say() -> None:
    def names(**knobs) -> set[str]:
        model = attached(get_method("orthcr", knobs))
        return {name.removeprefix("adapters.orthogonal_") for name in model.trained_state()}

    assert names() == {"image.P.fc1", "image.P.fc2", "text.P.fc1", "text.P.fc2"}
    assert names(towers="image") == {"image.P.fc1", "image.P.fc2"}
    assert names(towers="text", layers="q,k,v,out") == {f"text.P.{layer}" for layer in ("q", "k", "v", "out")}


def test_every_knob_has_a_text_and_mistakes_are_one_clear_line() -> None:
    for cls in (OrthCR, OrthSR):
        assert set(knobs_of(cls())) == set(cls().knobs())
    assert OrthSR().cut == "attentive"
    for knobs, line in [
        ({"side": "1.0"}, "knob side=1.0 of 'orthcr' must be a share between 0 and 1."),
        ({"l1": "-1"}, "knob l1=-1.0 of 'orthcr' must be 0 or more."),
        ({"layers": "fc1,fc1"}, "knob layers=('fc1', 'fc1') of 'orthogonal' must be one layer or more, each once."),
        ({"constraint": "none", "storage": "packed"}, "knob storage='packed' of 'orthogonal' must be full"),
        ({"neumann_terms": 0}, "must be at least 1."),
    ]:
        with pytest.raises(UsageError) as caught:
            get_method("orthcr", knobs)
        assert line in str(caught.value)
