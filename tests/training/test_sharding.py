"""Weights split over two processes (FSDP2), against one process that has all of them."""

from pathlib import Path

import pytest
import torch
from process_world import anchors_for, half_each, launch, shard_what_cannot_be, train_in_turn
from training_world import clip, files, make_task

from steadyclip.core.errors import UsageError
from steadyclip.methods import get_method
from steadyclip.training import TrainConfig, fit
from steadyclip.training.checkpoint import read_tensors

pytestmark = pytest.mark.newest  # --shard wants torch 2.7

CASES = ["full", "flyp", "arf", "in parts", "unequal parts", "averaged", "validated", "last block", "siglip", "siglip2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, by two processes that share the weights and by one."""
    folder = tmp_path_factory.mktemp("sharded")
    anchors_for(folder)
    assert launch(train_in_turn, folder / "two", CASES, True) == [0, 0]
    train_in_turn(folder / "one", CASES)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_that_share_the_weights_end_with_those_of_one(trained: Path, name: str) -> None:
    two, one = (read_tensors(trained / run / name / "trained.safetensors") for run in ("two", "one"))
    assert two.keys() == one.keys()
    for key, value in one.items():
        assert torch.allclose(two[key], value, rtol=0, atol=1e-5), key
    assert files(trained / "two" / name) == files(trained / "one" / name)


def test_each_has_half_and_frozen_refuses(tmp_path: Path) -> None:
    assert launch(half_each, tmp_path) == [0, 0]
    for rank in range(2):
        share, refused = (tmp_path / f"half-{rank}").read_text().split(" ", 1)
        assert 0.45 < float(share) < 0.55
        assert "keep_frozen_copy" in refused


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("lora", "it trains other parameters than the model's own weights"),
        ("car-ft", "it reads features of the pretrained model"),
        ("l2-sp", "a term reads the weights themselves"),
    ],
)
def test_a_method_that_cannot_be_split_says_why(tmp_path: Path, name: str, why: str) -> None:
    assert launch(shard_what_cannot_be, tmp_path, name) == [6, 6]
    said = (tmp_path / "said-0").read_text()
    assert said == f"--shard cannot split the weights for {name}: {why}. Leave --shard out."


def test_one_process_has_nothing_to_share() -> None:
    model = clip()
    with pytest.raises(UsageError, match="this is one: start it as torchrun --nproc-per-node"):
        fit(model, get_method("full"), make_task(), config=TrainConfig(progress=False, shard=True))
    assert not any(weight.requires_grad for weight in model.parameters())


def test_compiling_whole_towers_is_refused() -> None:
    with pytest.raises(UsageError, match="leave one of the two out"):
        TrainConfig(shard=True, compile="on").check()
