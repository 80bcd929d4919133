import json
import pickle

import pytest
import torch
from torch import nn
from training_world import files, same

from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.methods.recipe import Recipe
from steadyclip.training import checkpoint
from steadyclip.training.checkpoint import newest_checkpoint, read_tensors, save_checkpoint, to_bytes
from steadyclip.training.schedule import load_optimizer, make_optimizer, optimizer_tensors


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 4, generator=generator), "s": torch.randn((), generator=generator)}


def save(folder, step):
    return save_checkpoint(
        folder, step, {"trained": tensors(step), "optimizer": tensors(-step)}, {"note": f"at {step}"}
    )


def test_what_is_saved_comes_back(tmp_path) -> None:
    save(tmp_path, 7)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.state["note"]) == (7, "at 7")
    assert same(found.tensors("trained"), tensors(7))
    assert same(found.tensors("optimizer"), tensors(-7))


def test_the_last_two_stay(tmp_path) -> None:
    for step in (5, 10, 100_000_000, 15):  # nine digits sort after eight
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000015", "step-100000000"]
    assert newest_checkpoint(tmp_path).step == 100_000_000


def test_there_may_be_none(tmp_path) -> None:
    assert newest_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("harm", ["cut tensors", "no tensors", "cut json", "no json", "other json"])
def test_a_damaged_one_is_passed_over_and_replaced(tmp_path, harm) -> None:
    save(tmp_path, 1)
    last = save(tmp_path, 2)
    if harm == "cut tensors":
        file = last / "trained.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    elif harm == "no tensors":
        (last / "optimizer.safetensors").unlink()
    elif harm == "cut json":
        (last / "state.json").write_text('{"step": 2, "sizes"')
    elif harm == "no json":
        (last / "state.json").unlink()
    else:
        (last / "state.json").write_text("[1, 2]")
    assert newest_checkpoint(tmp_path).step == 1
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).step == 2


def test_what_a_kill_left_half_written_is_not_a_checkpoint(tmp_path) -> None:
    save(tmp_path, 1)
    half = tmp_path / ".step-00000002"
    half.mkdir()
    (half / "trained.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path).step == 1
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).step == 2
    assert not half.exists()


@pytest.mark.parametrize("broken", ["to_bytes", "_write", "_flush"])
def test_a_failed_write_leaves_the_last_good_one_and_no_litter(tmp_path, monkeypatch, broken) -> None:
    save(tmp_path, 1)
    before = files(tmp_path)

    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, broken, fail)
    with pytest.raises(SteadyClipError, match=r"step 2 .*No space left on device.*step-00000001; make room") as caught:
        save(tmp_path, 2)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before
    assert newest_checkpoint(tmp_path).step == 1


def test_a_failed_first_write_says_that_there_is_no_earlier_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder goes")
    with pytest.raises(SteadyClipError, match="no earlier one"):
        save(tmp_path / "checkpoints", 1)


def test_what_is_no_safetensors_file_is_refused(tmp_path) -> None:
    file = tmp_path / "trained.safetensors"
    with pytest.raises(ModelError, match="is not there: train again"):
        read_tensors(file)
    (tmp_path / "trained.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"trained\.pt is a pickle"):
        read_tensors(file)
    file.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ModelError, match="is a pickle"):
        read_tensors(file)
    torch.save({"w": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="is a pickle"):
        read_tensors(file)
    file.write_bytes(to_bytes(tensors(1)))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is damaged"):
        read_tensors(file)


def test_tensors_that_are_not_contiguous_are_written_right(tmp_path) -> None:
    (tmp_path / "t.safetensors").write_bytes(to_bytes({"t": torch.arange(6).reshape(2, 3).T}))
    assert read_tensors(tmp_path / "t.safetensors")["t"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path, rule) -> None:
    recipe = Recipe(optimizer=rule, learning_rate=0.05, weight_decay=0.1, steps=6)

    def parameters():
        return [nn.Parameter(tensors(3)["w"]), nn.Parameter(tensors(4)["s"])]

    def steps(optimizer, own, numbers) -> None:
        for i in numbers:
            for p in own:
                p.grad = torch.full_like(p, 0.3 * i) + p.detach()
            optimizer.step()

    through = parameters()
    steps(make_optimizer(recipe, through), through, range(6))

    own = parameters()
    names = dict(zip(own, ["w", "s"], strict=True))
    optimizer = make_optimizer(recipe, own)
    steps(optimizer, own, range(3))
    (tmp_path / "o.safetensors").write_bytes(to_bytes(optimizer_tensors(optimizer, names)))

    optimizer = make_optimizer(recipe, own)
    load_optimizer(optimizer, names, read_tensors(tmp_path / "o.safetensors"))
    steps(optimizer, own, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(through, own, strict=True))


def test_optimizer_state_of_unknown_parameters_is_refused() -> None:
    own = [nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(ModelError, match="'other'"):
        load_optimizer(make_optimizer(Recipe(steps=1), own), {own[0]: "w"}, {"other:exp_avg": torch.zeros(2, 2)})


def test_the_state_is_plain_json(tmp_path) -> None:
    path = save(tmp_path, 3)
    state = json.loads((path / "state.json").read_text())
    assert state["step"] == 3
    assert set(state["sums"]) == {"trained", "optimizer"}
