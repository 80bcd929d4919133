"""A full disk is one line, whoever tells of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import replacing, writing

CODE = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import building
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with building(Path(sys.argv[1]), force=False, ours="x") as folder:
        save_file({"a": torch.zeros(10_000)}, folder / "a.safetensors")
except SteadyClipError as error:
    print(error)
"""


def test_a_disk_that_is_full_while_tensors_are_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'out'}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [writing, replacing])
def test_other_errors_are_left_alone(where, tmp_path: Path) -> None:
    with pytest.raises(KeyError), where(tmp_path / "file"):
        raise KeyError("not of the disk")
    with pytest.raises(SteadyClipError, match="cannot write"), where(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
