"""Jobs of Slurm, as submitit runs them on this machine: arrays, and what is queued again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from steadyclip.core import slurm
from steadyclip.core.slurm import submit

pytest.importorskip("submitit")


def test_more_jobs_than_an_array_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_ARRAY", 2)
    jobs = submit([(abs, (-i,)) for i in range(5)], tmp_path, cluster="local")
    assert [job.result() for job in jobs] == [0, 1, 2, 3, 4]


def test_a_job_whose_time_is_over_makes_its_call_again(tmp_path: Path) -> None:
    from submitit.core.job_environment import JobEnvironment

    calls = tmp_path / "calls"

    def work(path: Path) -> list[str]:
        """The first call never ends by itself."""
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        while len(path.read_text().split()) == 1:
            time.sleep(0.05)
        return path.read_text().split()

    (job,) = submit([(work, (calls,))], tmp_path / "logs", {"timeout_min": 5}, cluster="local")
    while not (calls.exists() and calls.read_text()):
        time.sleep(0.05)
    os.kill(int(calls.read_text()), JobEnvironment._usr_sig())  # as Slurm does when the time is nearly over
    assert len(job.result()) == 2
