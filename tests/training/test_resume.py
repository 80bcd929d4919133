"""Trainings that are killed, stopped or starved of disk, in processes of their own, and then go on."""

import dataclasses
import json
import signal

import pytest
import torch
from training_world import (
    RECIPE,
    Everything,
    Harmful,
    Killer,
    clip,
    config,
    everything_or_lora,
    files,
    in_process,
    make_task,
    same,
    train,
    train_every_third,
    train_with_little_room,
)

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import write_atomic
from steadyclip.training import Stopped, TrainConfig, fit, run
from steadyclip.training.checkpoint import newest_checkpoint, read_tensors
from steadyclip.training.run import Run


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """(trained state, log, run folder) of trainings that nothing interrupts."""
    found = {}
    for name in ("everything", "lora"):
        out = tmp_path_factory.mktemp(name) / "run"
        state = train(out, everything_or_lora(name))
        found[name] = state, (out / "log.jsonl").read_text(), out
    return found


def losses(log: str) -> list[dict]:
    rows = [json.loads(line) for line in log.splitlines()]
    return [{name: row[name] for name in ("step", "loss", "terms", "learning_rate")} for row in rows]


@pytest.mark.parametrize("at", range(7))
def test_killed_at_any_step_it_ends_with_the_same_weights(tmp_path, through, at) -> None:
    """Every third step has a checkpoint; an epoch has two, so that some resumes are in mid-epoch."""
    out = tmp_path / "run"
    process = in_process(train_every_third, out, at)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    saved = newest_checkpoint(out / "checkpoints")
    assert (saved.step if saved else 0) == at - at % 3

    state, log, _ = through["everything"]
    assert same(train(out, Harmful(at=99)), state)
    assert losses((out / "log.jsonl").read_text()) == losses(log)
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("at", [3, 6])
def test_dropout_is_resumed_exactly(tmp_path, through, at) -> None:
    out = tmp_path / "run"
    process = in_process(train, out, Killer(at=at))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    reference = tmp_path / "reference"
    assert same(train(out, Killer(at=99)), train(reference, Killer(at=99)))
    assert same(read_tensors(reference / "trained.safetensors"), through["lora"][0])


@pytest.mark.parametrize(("harm", "name"), [("stop", "SIGINT"), ("terminate", "SIGTERM")])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, through, harm, name) -> None:
    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=rf"stopped by {name} after step 4 of 7; .*The same command again") as caught:
        train(out, Harmful(harm=harm, at=3), checkpoint_steps=None)
    assert "\n" not in str(caught.value)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert newest_checkpoint(out / "checkpoints").step == 4
    assert same(train(out, Harmful(at=99)), through["everything"][0])


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path, through) -> None:
    out = tmp_path / "run"
    assert same(train(out, Harmful(harm="stop", at=6)), through["everything"][0])
    assert Run.read(out / "run.json").finished


def test_without_a_folder_an_interrupt_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(clip(), Harmful(harm="stop", at=3), make_task(), config=TrainConfig(progress=False))


def test_checkpoints_by_time(tmp_path) -> None:
    with pytest.raises(SteadyClipError, match=r"not finite at step 5 .*step-00000005"):
        train(tmp_path / "run", Harmful(harm="nan", at=5), checkpoint_steps=None, checkpoint_minutes=1e-9)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, through) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        train(out, Harmful(harm="stop", at=4))
    file = out / "checkpoints/step-00000005/trained.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert same(train(out, Harmful(at=99)), through["everything"][0])


# ---- the disk


@pytest.mark.parametrize("room", [20_000, 4])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, through, room) -> None:
    """With 20 kB the log fits and the weights don't; with 4 bytes nothing does, nor would a message be of use."""
    out = tmp_path / "run"
    process = in_process(train_with_little_room, out, room)
    process.join(60)
    if room > 100:
        assert process.exitcode == 3
        line = (tmp_path / "out.txt").read_text()
        assert "checkpoint of step 4 cannot be written" in line
        assert "step-00000002; make room and give the same command again" in line
        assert "\n" not in line
    else:
        assert process.exitcode == 1
    assert {name.split("/")[1] for name in files(out) if "/" in name} == {"step-00000002"}
    assert not list(out.rglob(".*"))
    assert same(train(out, Harmful(at=99)), through["everything"][0])


def test_a_result_that_cannot_be_written_is_told(tmp_path, monkeypatch, through) -> None:
    def write(path, content) -> None:
        if path.name == "trained.safetensors":
            raise SteadyClipError(f"cannot write {path}: No space left on device.")
        write_atomic(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_atomic", write)
        with pytest.raises(SteadyClipError, match=r"trained\.safetensors: No space left on device\. Make room and"):
            train(tmp_path / "run", Everything())
    assert not Run.read(tmp_path / "run/run.json").finished
    assert same(train(tmp_path / "run", Everything()), through["everything"][0])


# ---- which folder may be gone on with


def test_a_finished_run_is_not_trained_again(through) -> None:
    state, _, out = through["everything"]
    model = clip()
    result = fit(model, Harmful(harm="kill", at=0), make_task(), recipe=RECIPE, config=config(out))
    assert same(model.trained_state(), state)
    assert result.run == Run.read(out / "run.json")
    assert len(result.losses) == 4
    assert not model.image_tower.blocks[0].module.training


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            {"recipe": dataclasses.replace(RECIPE, learning_rate=0.5)},
            r"recipe\.learning_rate \(there 0\.001, here 0\.5\)",
        ),
        ({"method": Everything(strength=2.0)}, r"method\.knobs\.strength \(there 1\.0, here 2\.0\)"),
        ({"config": {"seed": 2}}, r"config\.seed \(there 1, here 2\)"),
        ({"config": {"precision": "bf16"}}, r"config\.precision"),
        ({"task": make_task(3)}, r"task\.shots \(there 4, here 3\), task\.content"),
        ({"model": True}, r"model\.weights_hash"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_run_is_refused_and_untouched(tmp_path, through, change, field, finished) -> None:
    out = through["everything"][2]
    if not finished:
        out = tmp_path / "run"
        with pytest.raises(Stopped):
            train(out, Harmful(harm="stop", at=4))
    contents = {name: (out / name).read_bytes() for name in files(out)}
    model = clip()
    if "model" in change:
        with torch.no_grad():
            next(model.network.parameters()).add_(1e-3)
    with pytest.raises(SteadyClipError, match=rf"holds another run: .*{field}.*--out") as caught:
        fit(
            model,
            change.get("method", Harmful(at=99) if not finished else Everything()),
            change.get("task", make_task()),
            recipe=change.get("recipe", RECIPE),
            config=config(out, **change.get("config", {})),
        )
    assert "\n" not in str(caught.value)
    assert contents == {name: (out / name).read_bytes() for name in files(out)}


def test_settings_that_change_no_weight_may_differ(tmp_path, through) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "run", Harmful(harm="stop", at=4))
    more = {"checkpoint_steps": 1, "log_every": 5, "workers": 1, "checkpoint_minutes": None}
    assert same(train(tmp_path / "run", Harmful(at=99), **more), through["everything"][0])


def test_a_checkpoint_from_elsewhere_is_refused(tmp_path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "run", Harmful(harm="stop", at=4))
    with pytest.raises(Stopped):
        train(tmp_path / "other", Harmful(harm="stop", at=4), seed=2)
    (tmp_path / "run/checkpoints").rename(tmp_path / "lost")
    (tmp_path / "other/checkpoints").rename(tmp_path / "run/checkpoints")
    with pytest.raises(SteadyClipError, match=r"is a checkpoint of another run: config\.seed \(there 2, here 1\)"):
        train(tmp_path / "run", Harmful(at=99))


def test_a_run_can_be_refused_instead_of_resumed(through) -> None:
    with pytest.raises(SteadyClipError, match="already holds a run"):
        fit(clip(), Everything(), make_task(), recipe=RECIPE, config=config(through["everything"][2]), resume=False)


@pytest.mark.parametrize("content", ["trained.safetensors", "checkpoints/step-00000001/state.json"])
def test_results_without_their_run_are_not_overwritten(tmp_path, content) -> None:
    file = tmp_path / content
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(SteadyClipError, match=r"holds no run\.json"):
        train(tmp_path, Everything())
    assert file.read_text() == "mine"
