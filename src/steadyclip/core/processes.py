"""Worker processes that end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from steadyclip.core.errors import SteadyClipError


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``count`` processes.

    Without more ado a pool outlives a parent that is killed: its processes wait for work for ever.

    Raises:
        SteadyClipError: a process died, or was killed.
    """
    pool = ProcessPoolExecutor(count, initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise SteadyClipError(
            f"one of {count} worker processes died, perhaps for lack of memory: take fewer, or a larger machine."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    end_with_parent()


def end_with_parent() -> None:
    """This process is asked to end (SIGTERM) when the one that started it has ended."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
