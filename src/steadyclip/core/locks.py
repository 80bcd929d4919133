"""One owner at a time for a piece of work on disk. The kernel keeps the lock and drops it when its owner dies, however
it dies: there are no stale locks to clear away."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadyclip.core.errors import SteadyClipError


@contextmanager
def owning(path: Path) -> Iterator[str | None]:
    """Own the lock file ``path`` while entered; folders are made.

    While it is owned, a file beside it (``.owner``) names process and host. The empty lock file stays: it could not be
    removed without another process locking a file that is gone.

    Yields:
        None to the owner; to anyone else, at once, who the owner is.

    Raises:
        SteadyClipError: the file system has no locks, or cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, owner = FileLock(path, timeout=0), path.with_suffix(".owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SteadyClipError(f"cannot lock {path} ({reason}): choose a folder on a file system with locks.") from error
    if not lock.is_locked:
        yield _owner(owner)
        return
    try:
        with contextlib.suppress(OSError):  # a name for others to read: without it they say "another process"
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield None
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # just made, or just removed
        return "another process"
