"""Where cells run: in this process, in processes side by side, or on a cluster, through submitit or Ray."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.core.precision import keep_freed_memory
from steadyclip.core.processes import end_with_parent
from steadyclip.core.progress import warn
from steadyclip.core.ray import connected, need_ray
from steadyclip.core.slurm import need_submitit, submit
from steadyclip.experiments.cell import Bench, Outcome, attempt
from steadyclip.experiments.protocols import Cell

Launcher = Callable[[Sequence[Cell], Bench], Iterator[tuple[Cell, Outcome]]]
"""Does cells in any order, and yields each with its outcome as it ends."""

# What a cell imports on its way.
_PRELOADED = [
    "accelerate",
    "steadyclip.methods",
    "steadyclip.evaluation.scoring",
    "steadyclip.training.loop",
    "transformers.models.clip.modeling_clip",
]

# How long a process may take to save its state after it was asked to stop.
_PATIENCE = 60.0


def one_by_one(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
    """The launcher that does the cells in this process, in their order."""
    for cell in cells:
        yield cell, attempt(cell, bench)


def side_by_side(jobs: int) -> Launcher:
    """Up to ``jobs`` cells at a time, each in a process of its own with its share of the processor's cores, and where
    there are several GPUs on one of them in turn.

    A process that dies, for example because memory runs out, fails its own cell only. When this one is stopped or dies,
    they save their state and end.
    """
    if jobs < 1:
        raise UsageError(f"--jobs must be 1 or more, not {jobs}.")

    def launch(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
        context, bench = forkserver(), _without_bars(bench)
        waiting, running = deque(cells), {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.popleft()
                    pipe, theirs = context.Pipe(duplex=False)
                    place = min({*range(jobs)} - {place for *_, place in running.values()})
                    process = context.Process(target=_work, args=(theirs, cell, bench, jobs, place))
                    process.start()
                    theirs.close()
                    running[pipe] = process, cell, place
                for pipe in wait(list(running)):
                    process, cell, _ = running[pipe]
                    outcome = _result(pipe, process)
                    del running[pipe]
                    if isinstance(outcome, SteadyClipError):
                        raise outcome
                    yield cell, outcome
        finally:
            for process, *_ in running.values():
                process.terminate()
            for process, *_ in running.values():
                process.join(_PATIENCE)
                process.kill()
                process.join()

    return launch if jobs > 1 else one_by_one


def forkserver() -> Any:
    """How processes start: forked from a clean process that has loaded the libraries. Where there is no fork, each
    loads them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def take_gpu(device: str, place: int) -> None:
    """Makes one of several GPUs the current one, unless ``device`` names another: by ``place`` among the processes."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())


def _work(pipe: Any, cell: Cell, bench: Bench, jobs: int, place: int) -> None:
    """What a process does: send the outcome, or ``Stopped`` after a signal."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which then asks each process once
    end_with_parent()  # by a signal, at which a training saves its state
    keep_freed_memory()
    import torch

    from steadyclip.training import Stopped

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(max(1, min(int(threads) if threads.isdecimal() else cores, cores // jobs)))
    take_gpu(bench.config.device, place)
    try:
        pipe.send(attempt(cell, bench))
    except Stopped as stopped:
        pipe.send(stopped)


def _result(pipe: Any, process: Any) -> Outcome | SteadyClipError:
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(error=f"its process {how}{' (out of memory?)' if code == -signal.SIGKILL else ''}")


def through_submitit(parameters: Mapping[str, Any] | None = None, cluster: str = "slurm") -> Launcher:
    """One job for each cell, through submitit; its logs are in ``OUT/slurm``.

    Args:
        parameters: for submitit's ``update_parameters``, such as ``timeout_min``, ``slurm_partition``,
            ``gpus_per_node``.
        cluster: "slurm", or "local" for processes on this machine.

    Raises:
        SteadyClipError: see ``core.slurm.submit``.
    """
    submitit = need_submitit()

    def launch(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
        there = dataclasses.replace(_without_bars(bench), out=bench.out.resolve())
        jobs = submit([(attempt, (cell, there)) for cell in cells], bench.out / "slurm", parameters, cluster)
        running = {id(job): cell for job, cell in zip(jobs, cells, strict=True)}
        try:
            for job in submitit.helpers.as_completed(jobs):
                cell = running.pop(id(job))
                try:
                    outcome = job.result()
                except Exception as error:
                    outcome = Outcome(error=f"job {job.job_id} ended without a result ({type(error).__name__})")
                yield cell, outcome
        finally:
            for job in jobs:
                if id(job) in running:
                    job.cancel()

    return launch


def through_ray(jobs: int, resources: Mapping[str, Any] | None = None) -> Launcher:
    """Up to ``jobs`` cells at a time as tasks on a Ray cluster, see ``core.ray.connected``.

    A task whose worker or node dies is begun again elsewhere, three times at most, and goes on from its last
    checkpoint: all nodes see the grid's folder. When this process is stopped, they save their state and end.

    Args:
        jobs: tasks at a time.
        resources: of a cell, for ``ray.remote``; by default a core, and a GPU where the cluster has some.

    Raises:
        SteadyClipError: Ray is not installed.
    """
    need_ray()

    def launch(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
        there, place = dataclasses.replace(_without_bars(bench), out=bench.out.resolve()), Path.cwd()
        with connected() as ray:
            has = ray.cluster_resources()
            wanted = {
                "num_cpus": 1,
                "num_gpus": int("GPU" in has and bench.config.device != "cpu"),
                **(resources or {}),
            }
            try:
                task = ray.remote(**wanted)(_attempt_in)
            except (ValueError, TypeError) as error:
                raise UsageError(f"--ray {' '.join(f'{k}={v}' for k, v in wanted.items())}: {error}") from None
            for name, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
                if wanted[name] > has.get(kind, 0):
                    warn(f"cells wait until the Ray cluster has {wanted[name]} {kind}: now it has {has.get(kind, 0):g}")
            waiting, running = deque(cells), dict[Any, Cell]()
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        cell = waiting.popleft()
                        running[task.remote(place, cell, there)] = cell
                    for done in ray.wait(list(running))[0]:
                        cell = running.pop(done)
                        try:
                            outcome = ray.get(done)
                        except ray.exceptions.RayError as error:
                            outcome = Outcome(error=f"its Ray task ended without a result ({type(error).__name__})")
                        yield cell, outcome
            finally:
                for left in running:
                    ray.cancel(left)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE)

    return launch


def _attempt_in(place: Path, cell: Cell, bench: Bench) -> Outcome:
    """``attempt``, with paths that begin where the grid was started: a task begins where its node was."""
    try:
        os.chdir(place)
    except OSError as error:
        return Outcome(
            error=f"{place} is not there on {socket.gethostname()} ({error.strerror}): share it with the nodes"
        )
    return attempt(cell, bench)


def _without_bars(bench: Bench) -> Bench:
    return dataclasses.replace(bench, config=dataclasses.replace(bench.config, progress=False))
