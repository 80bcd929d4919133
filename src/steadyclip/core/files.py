"""Files that several processes share: written so that a reader sees the old one or the new one, never half of one; and
locks, which the kernel drops when their owner dies, however it dies: there are no stale ones to clear away."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steadyclip.core.errors import SteadyClipError

_LEFT = re.compile(r"\.(.+\.(?:json|jsonl|safetensors|parquet|npy|html|csv|md|txt|svg|png))(?:\.\w+)?")
"""Names of temporary files, with that of the file they were to become."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write beside ``path``, which takes its place in one step unless something is raised.

    Folders are made. What writers that died left of the same file is removed.

    Raises:
        SteadyClipError: the disk is full, the folder is read-only, ...; what was at ``path`` before is untouched.
    """
    temporary, handle = path.with_name(f".{path.name}.{secrets.token_hex(8)}"), None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, path.name)
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
            _hold(handle)
        with writing(path):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system, or safetensors, says against writing ``path`` becomes a SteadyClipError, one line."""
    try:
        yield
    except Exception as error:
        full = type(error).__name__ == "SafetensorError" and "I/O error" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        raise SteadyClipError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}.") from error


@contextlib.contextmanager
def building(folder: Path, *, force: bool, ours: str) -> Iterator[Path]:
    """Yields an empty folder beside ``folder``, which takes its place in one step unless something is raised.

    What a killed process left is removed by the next one that builds the same folder.

    Args:
        force: replace a folder that is there.
        ours: a file that only folders which may be replaced have.

    Raises:
        SteadyClipError: the folder is there, or cannot be written.
    """
    if folder.exists() and not (force and (folder / ours).is_file()):
        how = f"has no {ours}, so it is not replaced" if force else "is there already"
        raise SteadyClipError(f"{folder} {how}: name another{'' if force else ', or replace it with --force'}.")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.unfinished"):
            with contextlib.suppress(OSError), _held(left) as free:
                if free:
                    shutil.rmtree(left)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.unfinished")
        temporary.mkdir()
        try:
            with _held(temporary):
                yield temporary
            old = folder.with_name(f"{temporary.name}-old")
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a lock on ``folder`` itself, which the kernel drops when this process ends; False: another one holds it."""
    if os.name == "nt":  # folders cannot be opened: what was left stays
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _hold(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step. Folders and errors as in ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def file_digest(path: Path) -> str:
    """32 hex digits over the content of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files in ``folder`` (those of the file ``name``, or all) whose writers have died.

    A writer holds a lock of the kernel on its file, which goes when it dies, so that no living one loses its file.
    """
    try:
        found = [file for file in os.listdir(folder) if file.startswith("." if name is None else f".{name}.")]
    except OSError:
        return
    for file in found:
        match = _LEFT.fullmatch(file)
        if match is None or (name is not None and match[1] != name):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(folder / file, os.O_RDWR)
            try:
                if _hold(handle):
                    (folder / file).unlink()
            finally:
                os.close(handle)


def _hold(handle: int) -> bool:
    """Lock an open file until it is closed; False where another process has. Where there are no locks, nobody has."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove a file that is open
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def cache_folder() -> Path:
    """Where what was computed is kept for the next start: ``STEADYCLIP_CACHE``, or ``~/.cache/steadyclip``.

    Raises:
        SteadyClipError: neither is there, as for an account without a home.
    """
    if named := os.environ.get("STEADYCLIP_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "steadyclip"
    except RuntimeError:
        raise SteadyClipError(
            "this account has no home folder for the cache: name a folder in the environment variable STEADYCLIP_CACHE."
        ) from None


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of ``~``; as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def text_of_path(path: str) -> str:
    r"""A file name as text that every file format takes: bytes that are no UTF-8 become ``\xe9`` and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if _is_odd(path) else path


def file_in(root: Path, text: str) -> Path:
    """The file in ``root`` whose name is ``text``, also where ``text_of_path`` has spelled it."""
    path = root / text
    if "\\x" in text and not os.path.lexists(path):
        spelled = re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes([int(found[1], 16)]), os.fsencode(text))
        return root / os.fsdecode(spelled)
    return path


def _is_odd(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return True
    return False


@contextlib.contextmanager
def owning(path: Path, *, wait: bool = False, leave: bool = True) -> Iterator[str | None]:
    """Own the lock file ``path`` while entered; folders are made.

    While it is owned, a file beside it (``.owner``) names process and host. The kernel drops the lock
    when its owner dies, however it dies, so that nothing has to be cleared away.

    Args:
        path: the lock file.
        wait: until the owner has finished, instead of being told who it is.
        leave: the empty lock file stays; otherwise it is removed, with its folder if that is empty.

    Yields:
        None to the owner; to anyone else, at once, who the owner is.

    Raises:
        SteadyClipError: the file system has no locks, or cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, owner = FileLock(path, timeout=0), path.with_suffix(".owner")
    try:
        with contextlib.suppress(Timeout):
            while not (lock.is_locked and path.exists()):  # who owned it may have removed it with its folder
                lock.release()
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire()
                except Timeout:
                    if not wait:
                        raise
                    print(f"waiting for {_named(owner)}, which holds {path}", file=sys.stderr)
                    lock.acquire(timeout=-1)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise SteadyClipError(f"cannot write {path}: {error.strerror or error}.") from error
        reason = getattr(error, "strerror", None) or error
        raise SteadyClipError(f"cannot lock {path} ({reason}): choose a folder on a file system with locks.") from error
    if not lock.is_locked:
        yield _named(owner)
        return
    try:
        with contextlib.suppress(OSError):  # a name for others to read: without it they say "another process"
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield None
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        if not leave:
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()
        lock.release()


def _named(owner: Path) -> str:
    """Whom the file beside a lock names."""
    try:
        named = json.loads(owner.read_bytes())
        return f"process {named['pid']} on {named['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # just made, or just removed
        return "another process"


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """CSV of ``rows``. Texts that a spreadsheet would take for formulas (``=1+1``) begin with an apostrophe."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([map(_no_formula, row) for row in rows])
    return buffer.getvalue()


def _no_formula(cell: Any) -> Any:
    """A cell of a CSV file as ``csv_text`` writes it."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    with contextlib.suppress(ValueError):
        float(cell)
        return cell
    return f"'{cell}"


def without_apostrophe(cell: str) -> str:
    """The text of which ``csv_text`` made ``cell``."""
    return cell[1:] if cell.startswith("'") and _no_formula(cell[1:]) == cell else cell


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def slug(text: str) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", text).strip("-.")[:60]
