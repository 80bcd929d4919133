"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import os, sys
import torch
from steadyclip.core.precision import keep_freed_memory

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

if sys.argv[1] == "kept":
    keep_freed_memory()
before = megabytes()
blocks = [torch.ones(2**20 * 20 // 4) for _ in range(15)]
taken = megabytes() - before
del blocks
print(taken, megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("how", ["kept", "given back"])
def test_freed_blocks(how: str) -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True)
    taken, left = map(float, probe.stdout.split())
    assert taken == pytest.approx(300, abs=40)
    assert left == pytest.approx(300 if how == "kept" else 0, abs=40)
