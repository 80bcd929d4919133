"""Two processes over gloo against one."""

import os
import socket

import pytest
from training_world import RECIPE, Everything, Harmful, clip, close, files, in_process, make_task

from steadyclip.methods import get_method
from steadyclip.training import Stopped, TrainConfig, fit
from steadyclip.training.checkpoint import read_tensors


def method_named(name: str):
    # Dropout is drawn by each process for its own part, so it is off where results are compared.
    return Everything() if name == "everything" else get_method(name, {"dropout": 0.0} if name == "lora" else {})


def train(out, name, accumulate) -> None:
    config = TrainConfig(out=out, progress=False, accumulate=accumulate, device="cpu", checkpoint_steps=4, log_every=2)
    method = method_named(name)
    fit(clip(), method, make_task(val=1), recipe=method.recipe and RECIPE, config=config)


def launch(function, *args) -> list[int]:
    """What torchrun does; returns the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        in_process(function, *args, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    for process in processes:
        process.join(90)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize(("name", "accumulate"), [("everything", 1), ("lora", 2), ("linear-probe", 1)])
def test_two_processes_give_the_weights_of_one(tmp_path, name, accumulate) -> None:
    assert launch(train, tmp_path / "two", name, accumulate) == [0, 0]
    train(tmp_path / "one", name, accumulate)
    two, one = (read_tensors(tmp_path / run / "trained.safetensors") for run in ("two", "one"))
    assert close(two, one)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def stop_one_of_two(out) -> None:
    """Only the second process is asked to stop, at step 2; both notice at the next log step."""
    at = 2 if os.environ["RANK"] == "1" else 99
    config = TrainConfig(out=out, progress=False, device="cpu", log_every=4)
    try:
        fit(clip(), Harmful(harm="terminate", at=at), make_task(), config=config)
    except Stopped:
        os._exit(5)


def test_a_signal_to_one_process_stops_both_and_one_process_can_go_on(tmp_path) -> None:
    assert launch(stop_one_of_two, tmp_path / "run") == [5, 5]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    config = TrainConfig(out=tmp_path / "run", progress=False, log_every=4)
    fit(clip(), Harmful(at=99), make_task(), config=config)
    reference = clip()
    fit(reference, Harmful(at=99), make_task(), config=TrainConfig(progress=False))
    assert close(read_tensors(tmp_path / "run/trained.safetensors"), reference.trained_state())
