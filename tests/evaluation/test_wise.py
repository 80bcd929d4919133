"""Averages of trained and pretrained weights."""

import copy

import pytest
import torch

from steadyclip.core.errors import DataError, ModelError, UsageError
from steadyclip.evaluation import Record, Scorer, averaged, choose_alpha, evaluate_averaged
from steadyclip.methods import get_method
from steadyclip.models.testing import tiny
from steadyclip.testing import NAMES, TEMPLATES, train_a_little


@pytest.fixture(scope="module")
def trained():
    model = tiny("clip")
    train_a_little(get_method("flyp"), model)
    return model.eval()


def outputs(model) -> list[torch.Tensor]:
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [model.encode_image(images_BCHW), model.encode_text(["a cat", "a dog"]), model.logit_scale]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_ends_are_the_frozen_and_the_trained_model_bit_for_bit(trained) -> None:
    after = outputs(trained)
    with trained.frozen():
        before = outputs(trained)
    assert not equal(before, after)
    with averaged(trained, 0):
        assert equal(outputs(trained), before)
    with averaged(trained, 1):
        assert equal(outputs(trained), after)
    assert equal(outputs(trained), after)


def test_between_them_each_weight_is_the_average_and_comes_back(trained) -> None:
    start, end = trained.frozen_weights(), trained.trained_state()
    with averaged(trained, 0.25):
        for name, value in trained.trained_state().items():
            assert torch.allclose(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-7)
    with pytest.raises(ZeroDivisionError), averaged(trained, 0.5):
        raise ZeroDivisionError
    assert all(torch.equal(value, end[name]) for name, value in trained.trained_state().items())


def test_what_cannot_be_averaged_is_said_in_a_line(trained) -> None:
    adapted = tiny("clip")
    get_method("lora").attach(adapted, ["cat"])
    with pytest.raises(ModelError, match="adapters were trained, not its own weights"), averaged(adapted, 0.5):
        pass
    with pytest.raises(ModelError, match="nothing was trained"), averaged(tiny("clip"), 0.5):
        pass
    probed = tiny("clip")
    train_a_little(get_method("lp-ft"), probed)
    message = "a head was trained that does not start as the zero-shot classifier"
    with pytest.raises(ModelError, match=message), averaged(probed, 0.5):
        pass
    with pytest.raises(UsageError, match=r"alpha 1\.5 must be from 0"), averaged(trained, 1.5):
        pass


@pytest.mark.parametrize("name", ["ft", "lipsum-ft", "cross-modal"])
def test_a_head_that_starts_from_the_texts_is_averaged_with_them(name) -> None:
    model, method, zero_shot = tiny("clip"), get_method(name), get_method("zero-shot")
    train_a_little(method, model)
    model.eval()
    end = model.trained_state()

    def logits(method, model) -> torch.Tensor:
        images_BCHW = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return Scorer(model, method, NAMES, TEMPLATES).logits(model.run("image", images_BCHW))

    fresh = tiny("clip")
    zero_shot.attach(fresh, NAMES)
    expected, trained = logits(zero_shot, fresh), logits(method, model)
    assert not torch.allclose(trained, expected, atol=1e-3)
    with averaged(model, 0):
        torch.testing.assert_close(logits(method, model), expected)
    with averaged(model, 1):
        assert torch.equal(logits(method, model), trained)
    with averaged(model, 0.25):
        mixed = 0.75 * end["head.start_CD"] + 0.25 * end["head.weight"]
        torch.testing.assert_close(model.head.weight.detach(), mixed)
    assert equal(model.trained_state().values(), end.values())


def test_records_carry_alpha(trained, pictures, tmp_path) -> None:
    records = evaluate_averaged(trained, get_method("flyp"), pictures, [0.0, 0.5])
    assert [record.wise_alpha for record in records] == [0.0, 0.5]
    assert [record.method.label for record in records] == ["flyp, alpha 0", "flyp, alpha 0.5"]
    path = records[1].write(tmp_path / "record.json")
    assert Record.read(path) == records[1]


def test_alpha_is_chosen_on_validation_images(trained, pictures) -> None:
    model, method = copy.deepcopy(trained), get_method("flyp")
    alphas = (0.0, 0.5, 1.0)
    records = evaluate_averaged(model, method, pictures, alphas)
    best = max(record.metrics.top1 for record in records)
    chosen = choose_alpha(model, method, pictures, alphas)
    assert chosen == min(r.wise_alpha for r in records if r.metrics.top1 == best)
    with pytest.raises(DataError, match="no validation images"):
        choose_alpha(model, method, pictures.subset([]))
