import sys
from pathlib import Path

import pytest
import torch

# The processes that tests start must find training_world under the same name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums in another order are other sums: bit for bit comparisons need the same number of threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
