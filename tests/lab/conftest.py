"""Skips this folder where steadyclip-lab is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("steadyclip_lab", reason="needs steadyclip-lab: pip install ./lab")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Sums in another order are other sums: bit for bit comparisons need the same number of threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
