"""Work for engines to share, in a module that other processes can import."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from steadyclip.anchors.engines import run
from steadyclip.core.errors import DataError

__all__ = ["Letters", "run"]


@dataclasses.dataclass(frozen=True)
class Letters:
    """Writes a file for each part. ``deadly`` ends its process, ``bad`` cannot be done, all others take a moment."""

    folder: Path
    device: str = "cpu"
    seconds: float = 0.0

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"

    def done(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def __call__(self, name: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        if name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "bad":
            raise DataError("it is cut off.")
        time.sleep(self.seconds)
        (self.folder / name).write_text(name)
