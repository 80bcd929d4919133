"""Two processes over gloo against one."""

import contextlib
import socket
from pathlib import Path

import pytest
import torch
from process_world import anchors_for, go_on, go_on_in_folders_of_their_own, launch, meet, train_in_turn
from training_world import (
    Harmful,
    captioned_task,
    clip,
    close,
    files,
    gradients_of_five,
    in_process,
    make_task,
    stop_one_of_two,
    train_shared,
    write_pairs,
)

from steadyclip.methods import methods
from steadyclip.training import TrainConfig, fit
from steadyclip.training.checkpoint import read_tensors
from steadyclip.training.run import Stopped

NAMES = sorted(methods())
"""Before any test registers one of its own, which another process would not know."""
# what fills its head first, or reads a stream of its own, is trained to its end above
BY_STEPS = sorted(
    name for name, kind in methods().items() if (one := kind()).recipe and not one.head.solves and not one.streams()
)


@pytest.mark.parametrize(
    ("name", "accumulate", "unreadable"),
    [
        ("everything", 1, ""), ("lora", 2, ""), ("linear-probe", 1, ""), ("flyp", 1, ""), ("flyp", 2, "red/1.png"),
        ("arf", 1, ""), ("coop", 1, "red/1.png"), ("tip-adapter-f", 1, "red/1.png"), ("full", 1, "red/1.png"),
        ("projected", 1, ""),
    ],
)  # fmt: skip
def test_two_processes_give_the_weights_of_one(tmp_path, name, accumulate, unreadable) -> None:
    if name == "arf":
        write_pairs(tmp_path / "anchors.parquet", captioned_task().train)
    assert launch(train_shared, tmp_path / "two", name, accumulate, unreadable) == [0, 0]
    train_shared(tmp_path / "one", name, accumulate, unreadable)
    two, one = (read_tensors(tmp_path / run / "trained.safetensors") for run in ("two", "one"))
    assert close(two, one)
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method, by two processes and by one: SGD, no dropout, the same batches."""
    folder = tmp_path_factory.mktemp("matrix")
    anchors_for(folder)
    assert launch(train_in_turn, folder / "two", NAMES) == [0, 0]
    train_in_turn(folder / "one", NAMES)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_trained_by_two_processes_as_by_one(trained: Path, name: str) -> None:
    two, one = (read_tensors(trained / run / name / "trained.safetensors") for run in ("two", "one"))
    assert two.keys() == one.keys()
    for key, value in one.items():
        assert torch.allclose(two[key], value, rtol=0, atol=1e-5 * max(1.0, float(value.abs().max()))), key


PIECES = ("projected", "projected-pairs")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of every method that trains by steps, by two processes and by one."""
    folder = tmp_path_factory.mktemp("shared")
    assert launch(gradients_of_five, folder, *BY_STEPS, *PIECES) == [0, 0]
    gradients_of_five(folder, *BY_STEPS, *PIECES)
    return folder


@pytest.mark.parametrize("name", [*BY_STEPS, *PIECES])
def test_two_unequal_processes_have_the_terms_and_the_gradients_of_one(shared: Path, name: str) -> None:
    first, second, whole = (read_tensors(shared / name / part) for part in ("0-of-2", "1-of-2", "0-of-1"))
    assert first.keys() == second.keys() == whole.keys()
    for key, value in whole.items():
        if key.startswith("term"):
            assert torch.allclose(first[key] + second[key], value, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(first[key], second[key])
            assert torch.allclose(first[key], value, rtol=0, atol=1e-5 * max(1.0, float(value.abs().max()))), key


@pytest.mark.parametrize(("at", "start"), [(2, "3"), (99, "the end")])
def test_a_run_folder_that_is_not_shared_is_told(tmp_path: Path, at: int, start: str) -> None:
    config = TrainConfig(out=tmp_path / "0", progress=False)
    with pytest.raises(Stopped) if at < 99 else contextlib.nullcontext():
        fit(clip(), Harmful(harm="terminate", at=at), make_task(), config=config)
    assert launch(go_on_in_folders_of_their_own, tmp_path) == [6, 6]
    for rank in range(2):
        said = (tmp_path / f"said-{rank}").read_text()
        assert f"the processes would go on from different steps ({start}, 0)" in said


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = dict(zip(("MASTER_ADDR", "MASTER_PORT"), map(str, other.getsockname()), strict=True))
        ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
        first = in_process(meet, tmp_path, environment={**place, **ranks})
        first.join(90)
    assert first.exitcode == 6
    said = (tmp_path / "said-0").read_text()
    assert said.startswith(f"the processes cannot meet at 127.0.0.1:{place['MASTER_PORT']} (the port is in use): give ")


@pytest.mark.parametrize(
    ("optimizer", "shard"),
    [("sgd", False), *(pytest.param(name, True, marks=pytest.mark.newest) for name in ("sgd", "adamw"))],
)
def test_one_process_then_two_then_one(tmp_path: Path, optimizer: str, shard: bool) -> None:
    out = tmp_path / "run"
    assert launch(go_on, out, 0, optimizer, processes=1) == [5]
    assert launch(go_on, out, 2, optimizer, shard) == [5, 5]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000001", "step-00000003"]
    go_on(out, 99, optimizer)
    go_on(tmp_path / "through", 99, optimizer)
    resumed, through = (read_tensors(folder / "trained.safetensors") for folder in (out, tmp_path / "through"))
    assert close(resumed, through, 1e-5 if optimizer == "sgd" else 5e-5)


def test_a_signal_to_one_process_stops_both_and_one_process_can_go_on(tmp_path) -> None:
    assert launch(stop_one_of_two, tmp_path / "run") == [5, 5]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    config = TrainConfig(out=tmp_path / "run", progress=False, log_every=4)
    fit(clip(), Harmful(at=99), make_task(), config=config)
    reference = clip()
    fit(reference, Harmful(at=99), make_task(), config=TrainConfig(progress=False))
    assert close(read_tensors(tmp_path / "run/trained.safetensors"), reference.trained_state())
