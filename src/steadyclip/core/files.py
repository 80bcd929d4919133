"""Files that several processes share: written so that a reader sees the old one or the new one, never half of one; and
locks, which the kernel drops when their owner dies, however it dies: there are no stale ones to clear away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from steadyclip.core.errors import SteadyClipError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write beside ``path``, which takes its place in one step unless something is raised.

    Folders are made.

    Raises:
        SteadyClipError: the disk is full, the folder is read-only, ...; what was at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise SteadyClipError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step. Folders and errors as in ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def cache_folder() -> Path:
    """Where what was computed is kept for the next start: ``STEADYCLIP_CACHE``, or ``~/.cache/steadyclip``."""
    return Path(os.environ.get("STEADYCLIP_CACHE") or Path.home() / ".cache" / "steadyclip")


@contextlib.contextmanager
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
        try:
            named = json.loads(owner.read_bytes())
            name = f"process {named['pid']} on {named['host']}"
        except (OSError, ValueError, KeyError, TypeError):  # just made, or just removed
            name = "another process"
        yield name
        return
    try:
        with contextlib.suppress(OSError):  # a name for others to read: without it they say "another process"
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield None
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def slug(text: str) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", text).strip("-.")[:60]
