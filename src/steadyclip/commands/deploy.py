"""`export` and `serve`: a run on its way to others."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import say
from steadyclip.commands.predict import SourceOptions, read_names
from steadyclip.core.limits import BatchSize, Count, Limits, Workers
from steadyclip.core.precision import best_device


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run for other libraries, and compare what they read with the run before it is put in place."""

    common: ClassVar = ("source", "to", "out", "data", "names", "int8", "force")
    examples: ClassVar = (
        "steadyclip export runs/photos --to hf --out photos-hf --data photos",
        "steadyclip export runs/photos --to onnx --out photos-onnx --data photos --int8",
        "steadyclip export runs/photos --to web --out photos-web --runtime node_modules/onnxruntime-web",
    )

    source: Positional[str]
    """Folder that `steadyclip train` or `steadyclip export` wrote, or a pretrained model with --names."""
    to: Literal["hf", "open_clip", "onnx", "web"]
    """`hf`: transformers. `open_clip`. `onnx`: onnxruntime and transformers.js. `web`: a folder for a web server, whose
    page runs the model in the browser."""
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
    check: Count = 64
    """Images to compare on."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """Of the weights on disk."""
    int8: bool = False
    """Also write an int8 classifier (onnx)."""
    only: Literal["classifier"] | None = None
    """`classifier` leaves the towers out (onnx)."""
    runtime: Path | None = None
    """Folder of the npm package onnxruntime-web, whose files are copied (web)."""
    before: bool = False
    """Also write the pretrained model, so that the page shows both: twice the size (web)."""
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
                before=self.before, force=self.force, device=best_device(self.device), say=say,
            )  # fmt: skip
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        say(f"export: {self.out} ({len(info.files) + 1} files, {size / 1e6:.1f} MB)")
        if self.to == "web":
            say(f"to look at it: python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(self.out))} 8001")
        if data is None:
            print("compared on made images: name --data to compare on real ones", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Serve:
    """Answer over HTTP: a page, the hub's task interfaces, the Open Inference Protocol, metrics."""

    common: ClassVar = ("source", "host", "port", "token_file", "names", "workers")
    examples: ClassVar = (
        "steadyclip serve runs/photos",
        "steadyclip serve photos-onnx --backend onnx --host 0.0.0.0 --token-file token.txt",
    )

    source: Positional[str]
    """Folder that `steadyclip train` or `steadyclip export` wrote, or a pretrained model with --names."""
    answers: OmitArgPrefixes[SourceOptions]
    host: str = "127.0.0.1"
    """Address to listen at; others than this computer's own need a token."""
    port: Annotated[int, Limits(0, 65_535)] = 8000
    """0 takes a free one."""
    name: str | None = None
    """Of the model, in paths and on the page; by default that of the source's folder."""
    token_file: Path | None = None
    """File with the token that clients must send; or the environment variable STEADYCLIP_TOKEN."""
    auth: bool = True
    """--no-auth lets everyone in at an address that others can reach."""
    before: bool = True
    """Also load the pretrained model of a run, so that the page can show both."""
    workers: Workers = 0
    """Processes that decode images; 0 decodes on threads."""
    max_megabytes: Annotated[float, Limits(0, 10_000, above=True)] = 10.0
    """Largest body, in MiB."""
    max_batch: BatchSize = 32
    """Images in a forward pass, at most."""
    max_wait_ms: Annotated[float, Limits(0, 10_000)] = 5.0
    """How long a batch waits for more images."""
    max_waiting: Count = 256
    """Images that may wait; more are turned away (503)."""
    origins: tuple[str, ...] = ()
    """Web sites whose pages may send requests (CORS)."""

    def __call__(self) -> None:
        from steadyclip.deploy.serving.server import read_token, serve

        token = read_token(self.host, self.token_file, self.auth)
        predictor = self.answers.open(self.source)
        serve(
            predictor, self.host, self.port, name=self.name or Path(self.source).resolve().name, token=token,
            compare=self.before, workers=self.workers, origins=self.origins, rows=self.max_batch,
            wait_seconds=self.max_wait_ms / 1000, waiting=self.max_waiting,
            most_bytes=int(self.max_megabytes * 2**20), say=say,
        )  # fmt: skip


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
