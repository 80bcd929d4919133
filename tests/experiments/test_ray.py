"""Grids on Ray: the same records, also when a worker is killed; a cluster that is not there in one line, at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from grid_world import contents, table

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.experiments.launchers import through_ray

pytest.importorskip("ray")
# Ray warns of its own settings, and leaves a log file open
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

LORA = "lora[steps=30,batch_size=6,learning_rate=0.001]"


def test_a_killed_worker_costs_its_steps_since_the_last_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same sums in the workers
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not table(world, tmp_path / "here", [LORA], (1,)).failed
    out, killed, over = tmp_path / "ray", dict[int, set[tuple[int, int]]](), threading.Event()
    seen: set[tuple[int, int]] = set()
    """Steps of checkpoints, and their folders' numbers."""

    def watch() -> None:
        while not over.wait(0.01):
            for step in out.glob("lora*/checkpoints/step-*"):
                with contextlib.suppress(OSError):  # removed meanwhile
                    seen.add((int(step.name[5:]), step.stat().st_ino))
                owner = out / "locks" / f"{step.parts[-3]}.owner"
                if not killed and owner.is_file():
                    killed[json.loads(owner.read_text())["pid"]] = set(seen)
                    os.kill(next(iter(killed)), signal.SIGKILL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert not table(world, out, [LORA], (1,), launcher=through_ray(1)).failed
    over.set()
    watcher.join()
    ((worker, before),) = killed.items()
    assert worker != os.getpid()
    assert contents(out) == contents(tmp_path / "here")
    assert min(step for step, _ in seen - before) > max(step for step, _ in before)  # none is trained again


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "nonsense", "127.0.0.1:99999999"])
def test_a_cluster_that_is_not_there_is_one_line_at_once(address, world, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    start = time.monotonic()
    with pytest.raises(
        SteadyClipError, match=rf"no Ray cluster at {address} \(RAY_ADDRESS\): .*`ray start --head`"
    ) as error:
        table(world, tmp_path, ["zero-shot"], (1,), launcher=through_ray(1))
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 60


def test_resources_that_ray_does_not_know_are_refused(world, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"--ray .*cpus=4"):
        table(world, tmp_path, ["zero-shot"], (1,), launcher=through_ray(1, {"cpus": 4}))
