"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from steadyclip.core.errors import SteadyClipError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new file beside ``path`` that takes its place in one step, unless something is raised; folders are made.

    Raises:
        SteadyClipError: the disk is full, the folder is read-only, ...; what was at ``path`` before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # a temporary file is private; a record is meant to be read by others
        temporary.replace(path)
    except OSError as error:
        raise SteadyClipError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step. Folders and errors as in ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Where what was computed is kept for the next start: ``STEADYCLIP_CACHE``, or ``~/.cache/steadyclip``."""
    return Path(os.environ.get("STEADYCLIP_CACHE") or Path.home() / ".cache" / "steadyclip")
