"""Where cells run: in processes side by side on this machine, or on a Slurm cluster through submitit."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.core.memory import keep_freed_memory
from steadyclip.experiments.cell import Bench, Outcome, attempt
from steadyclip.experiments.grid import Launcher
from steadyclip.experiments.protocols import Cell

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


def side_by_side(jobs: int) -> Launcher:
    """Cells in ``jobs`` processes, each with its share of the processor's cores.

    A process that dies (for want of memory, say) fails its own cell only. When this one is stopped or dies, they save
    their state and end.
    """
    if jobs < 1:
        raise UsageError(f"--jobs must be 1 or more, not {jobs}.")

    def launch(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
        bench = dataclasses.replace(bench, config=dataclasses.replace(bench.config, progress=False))
        threads = max(1, min(_threads(), _cores() // jobs))
        waiting, working, idle = deque(cells), {}, []
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    worker = idle.pop() if idle else _Worker(bench, threads)
                    worker.start(waiting.popleft())
                    working[worker.pipe] = worker
                for pipe in wait(list(working)):
                    worker = working.pop(pipe)
                    cell, outcome = worker.result()
                    if isinstance(outcome, str):
                        from steadyclip.training import Stopped

                        raise Stopped(outcome)
                    if worker.process.is_alive():
                        idle.append(worker)
                    yield cell, outcome
        finally:
            _stop([*working.values(), *idle])

    return launch


class _Worker:
    """A process that does one cell after another."""

    def __init__(self, bench: Bench, threads: int) -> None:
        context = forkserver()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, bench, threads))
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None

    def start(self, cell: Cell) -> None:
        self.cell = cell
        with contextlib.suppress(OSError):  # it has died: `result` will tell
            self.pipe.send(cell)

    def result(self) -> tuple[Cell, Outcome | str]:
        """The outcome, or the line of a process that was stopped."""
        assert self.cell is not None
        try:
            return self.cell, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = " (out of memory?)" if code == -9 else ""
            return self.cell, Outcome(error=f"its process {how}{hint}")


def forkserver() -> Any:
    """How processes start: with the libraries loaded, forked from a clean process that did so once. Where there is no
    fork, each loads them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _serve(pipe: Connection, bench: Bench, threads: int) -> None:
    """What a worker does until its pipe is closed."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C goes to the parent alone, which then asks each worker once
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from steadyclip.training import Stopped

    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):
        while True:
            cell = pipe.recv()
            try:
                outcome: Outcome | str = attempt(cell, bench)
            except Stopped as stopped:
                pipe.send(str(stopped))
                return
            pipe.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state first


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """What the user allows."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else _cores()


def through_submitit(parameters: Mapping[str, Any] | None = None, cluster: str = "slurm") -> Launcher:
    """One job for each cell, through submitit; its logs stand in ``OUT/slurm``.

    Args:
        parameters: for submitit's ``update_parameters``: as ``timeout_min``, ``slurm_partition`` or ``gpus_per_node``.
        cluster: "slurm", or "local" for processes on this machine.

    Raises:
        SteadyClipError: submitit is not installed, there is no Slurm here, or it refuses a parameter.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SteadyClipError('--launcher slurm needs submitit: pip install "steadyclip[slurm]".') from None

    def launch(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
        folder = Path(bench.out) / "slurm"
        out = bench.out.resolve()
        there = dataclasses.replace(bench, out=out, config=dataclasses.replace(bench.config, progress=False))
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            executor.update_parameters(**{"name": "steadyclip", "timeout_min": 240, **(parameters or {})})
            with executor.batch():
                jobs = [executor.submit(attempt, cell, there) for cell in cells]
        except Exception as error:  # submitit raises plain RuntimeErrors
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise SteadyClipError(f"submitit cannot start the cells ({first}): see its logs in {folder}.") from error
        owners = {id(job): cell for job, cell in zip(jobs, cells, strict=True)}
        try:
            for job in submitit.helpers.as_completed(jobs):
                cell = owners.pop(id(job))
                try:
                    yield cell, job.result()
                except Exception as error:
                    yield cell, Outcome(error=f"job {job.job_id} ended without a result ({type(error).__name__})")
        finally:
            for job in jobs:
                if id(job) in owners:
                    job.cancel()

    return launch
