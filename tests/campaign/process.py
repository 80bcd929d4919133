"""Commands in processes of their own, forked from one that has loaded the libraries, and what is to be said of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.faults import Fault, Planted
from steadyclip.cli import main

PATIENCE = 20
"""Seconds that a command of the campaign may take."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it), what it said, its peak memory in MB."""

    code: int
    out: str
    error: str
    seconds: float
    memory: float
    writes: int = 0
    reads: int = 0

    @property
    def problem(self) -> str:
        """What must never happen, whatever the fault; "" if it did not."""
        if "Traceback (most recent call last)" in self.error:
            return f"traceback: {self.error.strip().splitlines()[-1][:200]}"
        if self.code == -signal.SIGALRM:
            return f"not done after {PATIENCE} s"
        if self.code not in (0, 1, 2, 130, -signal.SIGKILL, -signal.SIGXFSZ):
            return f"exit code {self.code}"
        if self.code in (1, 2) and len(re.findall("^error: ", self.error, re.MULTILINE)) != 1:
            return f"failed without one line that says why: {self.error[-200:]!r}"
        if "nan" in re.findall(r"\bnan\b", self.out):
            return "printed nan"
        return ""


class Started:
    """A command in a process of its own."""

    def __init__(
        self,
        words: Sequence[str],
        folders: Sequence[Path],
        fault: Fault | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """``before`` runs in the process, ahead of the command."""
        self._pipes = [os.pipe() for _ in range(3)]  # output, errors, counts: no file, which a fault could hit
        for _, write in self._pipes:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 2**20)
        self._start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._child(words, folders, fault or Fault("count"), before)
        for _, write in self._pipes:
            os.close(write)

    def _child(self, words: Sequence[str], folders: Sequence[Path], fault: Fault, before: Callable[[], None]) -> None:
        code = 99
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            os.dup2(self._pipes[0][1], 1)
            os.dup2(self._pipes[1][1], 2)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            before()
            planted = Planted(fault, *folders)
            try:
                code = main(words)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
                code = 1
            os.write(self._pipes[2][1], json.dumps([planted.writes, planted.reads]).encode())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)

    def end(self) -> Ended:
        """Wait for it."""
        _, status, usage = os.wait4(self._pid, 0)
        out, error, counts = (_all(read) for read, _ in self._pipes)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self._start
        return Ended(code, out, error, seconds, usage.ru_maxrss / 1024, *json.loads(counts or "[0, 0]"))


def _all(read: int) -> str:
    """What is in a pipe; what a worker process still holds open is not waited for."""
    os.set_blocking(read, False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(read, 2**16):
            parts.append(part)
    os.close(read)
    return b"".join(parts).decode(errors="replace")


def run(words: Sequence[str], folders: Sequence[Path], fault: Fault | None = None, **more: Callable[[], None]) -> Ended:
    """As ``Started``, to its end."""
    return Started(words, folders, fault, **more).end()


def own_peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
