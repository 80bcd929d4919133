"""`export` and `serve`: a run on its way to others."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from steadyclip.commands.options import say
from steadyclip.commands.predict import read_names
from steadyclip.core.precision import best_device


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run for other libraries, and compare what they read with the run before it is put in place."""

    source: Positional[str]
    """Folder that `steadyclip train` or `steadyclip export` wrote, or a pretrained model with --names."""
    to: Literal["hf", "open_clip", "onnx", "web"]
    """`hf`: transformers. `open_clip`. `onnx`: onnxruntime and transformers.js. `web`: a page that classifies in the
    browser."""
    out: Path
    """Folder to write."""
    names: tuple[str, ...] = ()
    """Class names, or @FILE with one a line; by default those of the run."""
    templates: tuple[str, ...] = ()
    """Prompts with {} for the class name; by default those of the run."""
    data: str | None = None
    """Data set whose validation images the export is compared on; made images without it."""
    root: Path | None = None
    """Folder that holds the field's data sets."""
    check: int = 64
    """Images to compare on."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """Of the weights on disk."""
    int8: bool = False
    """Also write an int8 classifier (onnx), or use it for the page (web)."""
    only: Literal["classifier"] | None = None
    """`classifier` leaves the towers out (onnx)."""
    runtime: Path | None = None
    """Folder of an npm installation of onnxruntime-web, whose files are copied (web)."""
    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    force: bool = False
    """Replace an export that is there."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.deploy import export
        from steadyclip.methods import find_method

        if self.plugin:
            find_method(self.plugin)
        data = load_data(self.data, root=self.root) if self.data else None
        with _termination():
            info = export(
                self.source, self.to, self.out, names=read_names(self.names), templates=self.templates, data=data,
                check=self.check, dtype=self.dtype, int8=self.int8, only=self.only, runtime=self.runtime,
                force=self.force, device=best_device(self.device), say=say,
            )  # fmt: skip
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        say(f"export: {self.out} ({len(info.files) + 1} files, {size / 1e6:.1f} MB)")
        if data is None:
            print("compared on made images: name --data to compare on real ones", file=sys.stderr)


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """A request to terminate ends the command as Ctrl-C does: what is half written is removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
