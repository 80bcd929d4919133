"""Ctrl-C and the like: note the wish, finish the step, save, and only then go."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from steadyclip.core.errors import SteadyClipError


class Stopped(SteadyClipError):
    """A signal ended the training, after everything was saved."""

    exit_code = 130


class StopRequest:
    """While entered, SIGINT and SIGTERM set ``name`` and the process goes on; a second one does what it always did."""

    def __init__(self, enabled: bool = True) -> None:
        """Not ``enabled``, or outside the main thread, signals are left alone."""
        self.name: str | None = None
        self._before: dict[int, Any] = {}
        self._enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> StopRequest:
        if self._enabled:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
