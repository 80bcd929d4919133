"""Ctrl-C and the like: note the wish, finish the step, save, and only then go."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steadyclip.core.errors import SteadyClipError


class Stopped(SteadyClipError):
    """A signal ended the training, after everything was saved."""

    exit_code = 130


@dataclass
class StopRequest:
    """The name of the signal that asked to stop, once there was one."""

    name: str | None = None


@contextlib.contextmanager
def stop_request(enabled: bool) -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM are noted and the process goes on; a second one does what it always did. Not
    ``enabled``, or outside the main thread, signals are left alone."""
    request, before = StopRequest(), dict[int, Any]()

    def note(number: int, *_: object) -> None:
        request.name = signal.Signals(number).name
        put_back()

    def put_back() -> None:
        while before:
            signal.signal(*before.popitem())

    if enabled and threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        put_back()
