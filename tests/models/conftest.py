"""One tiny checkpoint of each family on disk, written once; a fresh model of it for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.models import Adapter, DualEncoder, load
from steadyclip.models.testing import FAMILIES, installed_families, write_tiny

TEXTS = ["a photo of a cat", "Dog", "an astronaut, riding a horse on the moon at night", "a" * 100]


class AddLowRank(Adapter):
    """The smallest adapter that can be merged: adds ``x A B`` to a linear's output."""

    def __init__(self, linear: nn.Linear, seed: int = 0) -> None:
        super().__init__()
        self.refer("linear", linear)
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(linear.in_features, 2, generator=generator))
        self.up = nn.Parameter(torch.randn(2, linear.out_features, generator=generator))

    def install(self) -> list[RemovableHandle]:
        return [self.linear.register_forward_hook(self._add)]

    def _add(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return output + args[0] @ self.down @ self.up if self.enabled else None

    def merge(self) -> None:
        self.linear.weight += (self.down @ self.up).T


class AddConstant(Adapter):
    """An adapter without a merge."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.refer("module", module)
        self.shift = nn.Parameter(torch.ones(width))

    def install(self) -> list[RemovableHandle]:
        return [self.module.register_forward_hook(self._add)]

    def _add(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return output + self.shift if self.enabled else None


def attach_everywhere(model: DualEncoder) -> None:
    """An ``AddLowRank`` on every linear of every block of both towers."""
    for tower in (model.image_tower, model.text_tower):
        for block in tower.blocks:
            for name in ("q", "k", "v", "out", "fc1", "fc2"):
                adapter = AddLowRank(getattr(block, name), seed=block.index)
                model.attach(f"{tower.name}_{block.index}_{name}", adapter)


def features(model: DualEncoder) -> tuple[Tensor, Tensor]:
    """Image and text features of fixed inputs, without gradients."""
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(TEXTS)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], atol: float = 0.0) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in installed_families():
        folders[family] = tmp_path_factory.mktemp(family)
        write_tiny(family, folders[family])
    return folders


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> str:
    if request.param not in checkpoints:
        pytest.skip("open_clip is not installed, or its torchvision does not fit torch")
    return request.param


@pytest.fixture
def folder(family: str, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[family]


@pytest.fixture
def model(folder: Path) -> DualEncoder:
    return load(folder)
