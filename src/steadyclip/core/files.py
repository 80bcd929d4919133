"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from steadyclip.core.errors import SteadyClipError


def write_atomic(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step; folders are made.

    Raises:
        SteadyClipError: the disk is full, the folder is read-only, ...; what was at ``path`` before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # a temporary file is private; a record is meant to be read by others
        temporary.replace(path)
    except OSError as error:
        raise SteadyClipError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Where what was computed is kept for the next start: ``STEADYCLIP_CACHE``, or ``~/.cache/steadyclip``."""
    return Path(os.environ.get("STEADYCLIP_CACHE") or Path.home() / ".cache" / "steadyclip")
