"""A tiny model to embed pools with."""

import sys
from pathlib import Path

import pytest
import torch

from steadyclip.models.testing import tiny

# The modules of tests that stand beside this file.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums in another order are other sums: bit for bit comparisons need the same number of threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model():
    return tiny("clip")
