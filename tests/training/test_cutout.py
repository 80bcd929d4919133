"""The switch that cuts a square from the training images of any method."""

import pytest
import torch
from training_world import RECIPE, Everything, Harmful, clip, config, make_task, same, train

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.training import Stopped, TrainConfig, fit
from steadyclip.training.loop import Loop


def test_it_is_resumed_exactly_and_changes_the_weights(tmp_path) -> None:
    through = train(tmp_path / "through", Everything(), cutout=0.5)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", Harmful(harm="stop", at=3), cutout=0.5)
    assert same(train(tmp_path / "stopped", Everything(), cutout=0.5), through)
    assert not same(train(tmp_path / "plain", Everything()), through)


def test_another_share_is_another_run(tmp_path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "run", Harmful(harm="stop", at=3), cutout=0.5)
    with pytest.raises(SteadyClipError, match="cutout"):
        train(tmp_path / "run", Everything())


def test_images_are_cut_and_differ_from_step_to_step(tmp_path, monkeypatch) -> None:
    seen = []
    batch = Loop._batch
    monkeypatch.setattr(Loop, "_batch", lambda self, *a: (b := batch(self, *a), seen.append(b.images_BCHW))[0])
    for share in (0.0, 0.5):
        fit(clip(), Everything(), make_task(), recipe=RECIPE, config=config(tmp_path / str(share), cutout=share))
    holes = torch.stack([(images == 0).all(1) for images in seen])
    assert not holes[:7].any()
    assert holes[7:].any((2, 3)).all()
    assert holes[7:].sum((2, 3)).max() <= 16 * 16
    assert not torch.equal(holes[7], holes[8])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_wrong_share_is_a_clear_line(share) -> None:
    with pytest.raises(UsageError, match=rf"cutout={share} must be a share from 0 to below 1\."):
        TrainConfig(cutout=share).check()
