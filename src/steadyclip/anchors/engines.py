"""Who does which part of a long piece of work: processes of this machine, torchrun, Slurm or Ray.

All of them run the same function on the same parts, and leave the same files: what is done is what has a result on
disk, and a part belongs to whoever holds its lock. So a killed process costs its part, the same command goes on with
what is left, and may do so under another engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import owning
from steadyclip.core.ray import connected, need_ray
from steadyclip.core.slurm import need_submitit, submit

if TYPE_CHECKING:
    import torch

Engine = Literal["local", "slurm", "ray"]
"""``local`` is also what torchrun starts, once for each process."""
TRIES = 3
"""How often a part may end its process before it is left alone."""


class Work(Protocol):
    """What is done for each part. A value that can be pickled: it names files, and holds nothing large."""

    @property
    def device(self) -> str:
        """Where it computes; "cuda" takes another GPU in each process."""
        ...

    @property
    def logs(self) -> Path:
        """A folder that all processes see."""
        ...

    def lock(self, name: str) -> Path:
        """The lock file of a part."""
        ...

    def done(self, name: str) -> bool:
        """Whether the result of a part is there, whole."""
        ...

    def __call__(self, name: str) -> None:
        """Do a part and leave its result. Raises ``SteadyClipError`` where that part cannot be done."""
        ...


W = TypeVar("W", bound=Work)


@dataclasses.dataclass(frozen=True)
class How:
    """An engine and its settings.

    Attributes:
        engine: who does the parts.
        jobs: processes, or jobs, or actors.
        slurm: parameters of submitit's jobs.
        cluster: "local" runs the jobs of Slurm as processes on this machine, to try it.
    """

    engine: Engine = "local"
    jobs: int = 1
    slurm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        """Raises ``SteadyClipError`` where the engine is not installed: before work starts."""
        if self.engine == "slurm":
            need_submitit()
        if self.engine == "ray":
            need_ray()


def torchrun() -> bool:
    """torchrun has started the processes."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def spread(device: torch.device) -> str:
    """The device of a work whose model is on ``device``: "cuda" if that is just the current GPU and none was named."""
    import torch

    named = device.type != "cuda" or device.index != torch.cuda.current_device()
    return str(device) if named else "cuda"


def run(work: Work, names: Sequence[str], how: How | None = None, log: Callable[[str], None] = print) -> dict[str, str]:
    """Do all parts that are not done yet; returns those that could not be done, with the reasons.

    Raises:
        SteadyClipError: the engine is not there, or the folder cannot be locked.
    """
    how = how or How()
    if all(map(work.done, names)):
        return {}
    if torchrun():
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        mine = _on_device(work, int(os.environ.get("LOCAL_RANK", "0")))
        return take_parts(mine, names, rank * len(names) // world)
    starts = [i * len(names) // how.jobs for i in range(how.jobs)]
    if how.engine == "ray":
        _through_ray(work, [name for name in names if not work.done(name)], how, log)
    elif how.engine == "slurm":
        calls = [(take_parts, (work, names, start)) for start in starts]
        for job in submit(calls, work.logs, how.slurm, how.cluster):
            try:
                job.result()
            except Exception as error:  # a job that died; what it left is done below
                log(f"job {job.job_id} ended without a result ({type(error).__name__}): see {work.logs}")
    elif how.jobs > 1:
        with _processes(work, names, starts[1:], how.jobs):
            return take_parts(_on_device(work, 0), names)
    return take_parts(work, names)


def take_parts(work: Work, names: Sequence[str], start: int = 0) -> dict[str, str]:
    """Do what nobody does, from part number ``start`` on, and wait for what others do; returns what failed."""
    waiting, failed, pause = [*names[start:], *names[:start]], {}, 0.05
    while waiting:
        busy = []
        for name in waiting:
            if not work.done(name) and not _took(work, name, failed):
                busy.append(name)
        if len(busy) == len(waiting):
            time.sleep(pause)
            pause = min(2.0, 2 * pause)
        waiting = busy
    return failed


def _took(work: Work, name: str, failed: dict[str, str]) -> bool:
    """Whether this process did the part, or found that it cannot be done; False where another one is at it."""
    lock = work.lock(name)
    with owning(lock) as owner:
        if owner:
            return False
        if work.done(name):
            return True
        tries = lock.with_suffix(".tries")
        count = tries.stat().st_size if tries.is_file() else 0
        if count >= TRIES:
            failed[name] = f"it has ended its process {count} times: delete {tries} to try it again"
            return True
        with tries.open("ab") as file:  # a byte for each try that was not survived
            file.write(b".")
        try:
            work(name)
        except SteadyClipError as error:
            failed[name] = str(error)
        finally:
            tries.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _processes(work: Work, names: Sequence[str], starts: Sequence[int], jobs: int) -> Iterator[None]:
    """Further processes beside this one. They end with it; what one that dies has left is done by the others."""
    import multiprocessing

    import torch

    context, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    share = max(1, threads // jobs)
    started = []
    try:
        for number, start in enumerate(starts, start=1):
            arguments = _on_device(work, number), names, start, share
            started.append(context.Process(target=_process, args=arguments, daemon=True))
            started[-1].start()
        torch.set_num_threads(share)
        yield
        for process in started:
            process.join()
    finally:
        torch.set_num_threads(threads)
        for process in started:
            process.terminate()
            process.join()


def _process(work: Work, names: Sequence[str], start: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    take_parts(work, names, start)


def _on_device(work: W, number: int) -> W:
    """The work for process ``number`` of a machine: each takes another GPU."""
    import torch

    if work.device != "cuda" or not dataclasses.is_dataclass(work) or isinstance(work, type):
        return work
    return dataclasses.replace(work, device=f"cuda:{number % torch.cuda.device_count()}")


class _Actor:
    """What a Ray actor does: it holds the work, and through it the model, for all parts that it gets."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        failed: dict[str, str] = {}
        names = [str(name) for name in batch["name"]]
        for name in names:
            _took(self.work, name, failed)
        return {"name": names, "reason": [failed.get(name, "") for name in names]}


def _through_ray(work: Work, names: Sequence[str], how: How, log: Callable[[str], None]) -> None:
    """Names of parts, never their content, go through Ray, which places and restarts what does them."""
    with connected() as ray:
        import ray.data  # pyright: ignore[reportMissingImports]

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = 1 if work.device.startswith("cuda") else 0
        done = ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names)).map_batches(
            _Actor,
            fn_constructor_args=(work,),
            batch_size=1,
            num_cpus=0.5 if not gpus else 1,  # else the readers starve where there are few
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(size=how.jobs, max_tasks_in_flight_per_actor=2),
        )
        for row in done.take_all():
            if row["reason"]:
                log(f"part {row['name']}: {row['reason']}")
