"""What goes wrong: a process that dies or finds the disk full at one of its writes, or cannot read at one of its reads.

Faults are planted through Python's audit hooks, so that they hit what every library does, and through the limit on
the size of files, which fails (or kills) in the middle of a write, of native code too.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong in one process.

    Attributes:
        kind: "kill" or "fail" at the write number ``at``; "kill in" or "fail in" the write that makes a file longer
            than ``at`` bytes; "unreadable" at the read number ``at``; "read-only" at every write; "count" nothing.
        error: of "fail": the number of the system's error.
    """

    kind: str
    at: int = 0
    error: int = errno.ENOSPC


class Planted:
    """Plants a fault below ``folder`` in this process, for good; counts ``writes`` and ``reads``."""

    def __init__(self, fault: Fault, *folders: Path) -> None:
        self.fault, self.folders = fault, tuple(str(folder) for folder in folders)
        self.writes = self.reads = 0
        if fault.kind in ("kill in", "fail in"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fault.kind == "kill in" else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, fault.at))
        sys.addaudithook(self._heard)

    def _heard(self, event: str, args: tuple[object, ...]) -> None:
        if event not in _CHANGES and event != "open":
            return
        path = args[0]
        if not isinstance(path, str | bytes | os.PathLike) or not os.path.abspath(os.fsdecode(path)).startswith(
            self.folders
        ):
            return
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        if event == "open" and not flags & _WRITING:
            self.reads += 1
            if self.fault.kind == "unreadable" and self.reads == self.fault.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(path))
            return
        self.writes += 1
        if self.fault.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
        if self.writes != self.fault.at:
            return
        if self.fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.kind == "fail":
            raise OSError(self.fault.error, os.strerror(self.fault.error), os.fsdecode(path))
