"""Commands in processes of their own, forked from one that has loaded the libraries, and what is to be said of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from campaign.faults import Fault, Planted
from steadyclip.cli import main

PATIENCE = 20
"""Seconds that a command of the campaign may compute, and seconds for which it may wait for nothing."""
_LOOK = 0.5
"""Seconds between two looks at what a process does."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it), what it said, its peak memory in MB.

    Attributes:
        seconds: of the processor, by it and the processes that it waited for.
        hangs: what the watch found before it killed the process, or "".
    """

    code: int
    out: str
    error: str
    seconds: float
    memory: float
    writes: int = 0
    reads: int = 0
    hangs: str = ""

    @property
    def problem(self) -> str:
        """What must never happen, whatever the fault; "" if it did not."""
        if "Traceback (most recent call last)" in self.error:
            return f"traceback: {self.error.strip().splitlines()[-1][:200]}"
        if self.hangs:
            return self.hangs
        if self.code not in (0, 1, 2, 130, -signal.SIGKILL, -signal.SIGXFSZ):
            return f"exit code {self.code}"
        if self.code in (1, 2) and len(re.findall("^error: ", self.error, re.MULTILINE)) != 1:
            return f"failed without one line that says why: {self.error[-200:]!r}"
        if "nan" in re.findall(r"\bnan\b", self.out):
            return "printed nan"
        return ""


class Watch:
    """Tells a process that hangs from one that waits for its turn: the machine may be busy, and time alone says little.

    A process hangs if it, and those it started, have computed for too long, or have for ``PATIENCE`` seconds neither
    computed nor waited for a processor.
    """

    def __init__(self, group: int, computing: float = PATIENCE) -> None:
        """``group``: of processes. ``computing``: seconds for which they may."""
        self._group, self._computing, self._at, self._idle = group, computing, time.monotonic(), 0.0
        self._seen: dict[str, tuple[float, float]] = {}

    def hangs(self) -> str:
        """What is wrong, or "". Looks at most every ``_LOOK`` seconds."""
        now = time.monotonic()
        passed = now - self._at
        if passed < _LOOK:
            return ""
        before, self._seen, self._at = self._seen, self._times(), now
        active = sum(sum(times) - sum(before.get(task, (0.0, 0.0))) for task, times in self._seen.items())
        self._idle = 0.0 if active > 0.02 * passed else self._idle + passed
        if sum(computed for computed, _ in self._seen.values()) > self._computing:
            return f"not done after {self._computing:g} s of computing"
        return f"waits for nothing since {PATIENCE} s" if self._idle > PATIENCE else ""

    def _times(self) -> dict[str, tuple[float, float]]:
        """Of each thread: seconds of computing, and of waiting for a processor."""
        found = {}
        for process in _members(self._group):
            for task in Path(f"/proc/{process}/task").glob("*"):
                with contextlib.suppress(OSError, ValueError):
                    computed, queued, _ = (task / "schedstat").read_text().split()
                    found[str(task)] = int(computed) / 1e9, int(queued) / 1e9
        return found


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
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(words, folders, fault or Fault("count"), before)
        with contextlib.suppress(OSError):  # it may have done so itself already
            os.setpgid(self.pid, self.pid)
        for _, write in self._pipes:
            os.close(write)

    def _child(self, words: Sequence[str], folders: Sequence[Path], fault: Fault, before: Callable[[], None]) -> None:
        code = 99
        try:
            os.setpgid(0, 0)  # so that what it leaves running is found
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

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until its output has a ``pattern``. Raises RuntimeError where it ends or hangs without that."""
        watch, found = Watch(self.pid), ""
        while not (match := re.search(pattern, found)):
            if not select.select([self._pipes[0][0]], [], [], 0.1)[0]:
                if hangs := watch.hangs():
                    raise RuntimeError(hangs)
            elif part := os.read(self._pipes[0][0], 2**16):
                found += part.decode(errors="replace")
            else:
                raise RuntimeError(self.end().error)
        return match

    def end(self, computing: float = PATIENCE) -> Ended:
        """Wait for it, and for the processes that it started; kill what hangs (see ``Watch``)."""
        watch, hangs, pid = Watch(self.pid, computing), "", 0
        while not pid:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if not pid:
                time.sleep(0.005)
                if not hangs and (hangs := watch.hangs()):
                    kill(self.pid)
        out, error, counts = (_all(read) for read, _ in self._pipes)
        ended = Ended(
            os.waitstatus_to_exitcode(status), out, error, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024,
            *json.loads(counts or "[0, 0]"), hangs=hangs,
        )  # fmt: skip
        return ended if hangs else replace(ended, hangs=_left_running(self.pid))


def _left_running(group: int) -> str:
    """What is wrong if processes of the ``group`` go on after the one that started them has ended, or ""."""
    watch = Watch(group)
    while members := _members(group):
        if watch.hangs():
            kill(group)
            return f"left {len(members)} processes running"
        time.sleep(0.02)
    return ""


def _members(group: int) -> list[int]:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, of, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def kill(group: int) -> None:
    """End all processes of a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


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
