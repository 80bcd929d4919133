"""Trainings whose batches are compared within, and that read captions and pairs."""

import dataclasses

import pytest
import torch
from training_world import RECIPE, captioned_task, clip, close, config, is_step, make_task, same, write_pairs

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.methods import get_method
from steadyclip.methods.arf import ARF
from steadyclip.objectives import InfoNCE, Objective
from steadyclip.training import TrainConfig, fit, load_run
from zero_shot import zero_shot_logits


class NotANumber(InfoNCE):
    """Gives no number at step 3."""

    def __call__(self, f):
        return super().__call__(f) * (float("nan") if is_step(f, 3) else 1)


class Failing(ARF):
    def objective(self):
        terms = super().objective()
        return Objective(tuple((weight, NotANumber(*vars(term).values())) for weight, term in terms.parts))


@pytest.fixture
def anchors(tmp_path):
    return write_pairs(tmp_path / "anchors.parquet", captioned_task().train)


def test_a_training_that_goes_on_ends_with_the_same_weights(tmp_path, anchors) -> None:
    through = clip()
    fit(through, ARF(anchors=anchors), captioned_task(), recipe=RECIPE, config=TrainConfig(progress=False))
    with pytest.raises(SteadyClipError, match="not finite at step 3"):
        fit(clip(), Failing(anchors=anchors), captioned_task(), recipe=RECIPE, config=config(tmp_path / "run"))
    resumed = clip()
    fit(resumed, ARF(anchors=anchors), captioned_task(), recipe=RECIPE, config=config(tmp_path / "run"))
    assert same(through.trained_state(), resumed.trained_state())
    loaded, method, run = load_run(tmp_path / "run", model=clip())
    assert same(loaded.trained_state(), resumed.trained_state())
    assert method == ARF(anchors=anchors)
    assert list(run.method.files) == ["anchors"]
    assert set(run.results.loss) == {"mean", "prompts", "captions", "pairs"}


def test_an_anchor_file_with_other_content_is_another_run(tmp_path, anchors) -> None:
    fit(clip(), ARF(anchors=anchors), captioned_task(), recipe=RECIPE, config=config(tmp_path / "run"))
    write_pairs(anchors, captioned_task().train, texts=("a lamp", "a fish"))
    with pytest.raises(SteadyClipError, match=r"another run: method\.files\.anchors"):
        fit(clip(), ARF(anchors=anchors), captioned_task(), recipe=RECIPE, config=config(tmp_path / "run"))


def test_what_a_method_lacks_is_said_before_a_folder_is_made(tmp_path) -> None:
    with pytest.raises(UsageError, match="name a file of `steadyclip anchors retrieve`"):
        fit(clip(), ARF(), captioned_task(), recipe=RECIPE, config=config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["flyp", "arf"])
def test_a_batch_that_is_compared_within_is_the_whole_one_in_parts_too(anchors, name) -> None:
    """AdamW and clipping would hide a gradient of the wrong size."""
    plain = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.005, clip_norm=None)
    method = get_method(name, {"anchors": anchors} if name == "arf" else {})
    states, losses = [], []
    for accumulate in (1, 3):
        model, config = clip(), TrainConfig(accumulate=accumulate, progress=False, log_every=1)
        losses.append(fit(model, method, captioned_task(), recipe=plain, config=config).losses)
        states.append(model.trained_state())
    assert close(*states, 1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_flyp_learns(tmp_path) -> None:
    """Colors are told apart after a few steps."""
    model, task = clip(), make_task(8)
    recipe = dataclasses.replace(RECIPE, steps=40, batch_size=16, learning_rate=2e-3)
    fit(model, get_method("flyp"), task, recipe=recipe, config=TrainConfig(augment=False, progress=False))
    images_BCHW = torch.stack([model.preprocess(task.train.read(i)) for i in range(len(task.train))])
    with torch.no_grad():
        logits_BC = zero_shot_logits(
            model, model.encode_image(images_BCHW), model.encode_text([f"a {c}." for c in task.classes])
        )
    assert (logits_BC.argmax(dim=-1) == torch.tensor(task.train.labels)).float().mean() > 0.9
