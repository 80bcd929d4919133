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

# Where a mandatory lock (Windows) may lie without hiding the owner's name.
_FAR = 1 << 30


@contextmanager
def owning(path: Path) -> Iterator[str | None]:
    """Own the lock file ``path`` while entered, which then names process and host; folders are made.

    Yields:
        None to the owner; to anyone else, at once, who the owner is.

    Raises:
        SteadyClipError: the file system has no locks, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open(path)
    except OSError as error:
        raise SteadyClipError(
            f"cannot lock {path} ({error.strerror or error}): choose a folder on a file system with locks."
        ) from error
    if handle is None:
        yield _owner(path)
        return
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield None
    finally:
        with contextlib.suppress(OSError):  # before it is given up: a file that another process owns is never removed
            path.unlink()
        os.close(handle)


def _open(path: Path) -> int | None:
    """The locked file, or None where another process owns it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                os.close(handle)
                return None
            # The last owner may have removed the file between our opening and our locking it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # just made, or just removed
        return "another process"
