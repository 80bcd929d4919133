"""Worker processes: they end with whoever started them, and one that dies is a line for the user."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.processes import worker_processes

PARENT = """
import os, signal, sys, time
from steadyclip.core.processes import worker_processes
with worker_processes(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_workers_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
    assert parent.returncode == -signal.SIGKILL
    assert workers
    deadline = time.monotonic() + 60
    while alive := [worker for worker in workers if _runs(worker)]:
        assert time.monotonic() < deadline, f"{alive} wait for work for ever"
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_dies_is_one_line() -> None:
    with (
        pytest.raises(SteadyClipError, match="1 worker processes died, perhaps for lack of memory"),
        worker_processes(1) as pool,
    ):
        pool.submit(os._exit, 3).result()
