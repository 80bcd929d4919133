"""`embed` and `search`: features of a folder, and the nearest of them to words or to an image."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import print_json, say
from steadyclip.commands.predict import EngineOptions
from steadyclip.core.errors import UsageError
from steadyclip.core.limits import BatchSize, Count, Workers
from steadyclip.core.words import counted

if TYPE_CHECKING:
    from steadyclip.deploy import Predictor


def _open(source: str, engine: EngineOptions) -> Predictor:
    """A predictor whose class names do not matter."""
    from steadyclip.deploy.opening import has_names

    return engine.open(source, () if has_names(source) else ("image",))


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write features of images, in the layout of clip-retrieval. The same command again goes on."""

    source: Positional[str]
    """Folder that `steadyclip train` or `steadyclip export` wrote, or a pretrained model, as for `train --model`."""
    images: Positional[tuple[str, ...]]
    """Images, folders, patterns, lists, or `-`, as for `steadyclip predict`."""
    engine: OmitArgPrefixes[EngineOptions]
    out: Path
    """Folder to write."""
    half: bool = False
    """float16 instead of float32: half the size."""
    shard: Count = 100_000
    """Rows of a file."""
    recursive: bool = True
    """Also look into the folders below a folder."""
    batch_size: BatchSize = 64
    """Images in a forward pass."""
    workers: Workers = 0
    """Processes that decode images; 0 decodes on threads."""

    def __call__(self) -> None:
        from steadyclip.core.progress import progress_bar
        from steadyclip.deploy.embedding import embed_folder
        from steadyclip.deploy.listing import find_pictures

        if not self.images:
            raise UsageError("name at least one image or folder: steadyclip embed RUN FOLDER --out FEATURES")
        paths = find_pictures(self.images, recursive=self.recursive, stdin=sys.stdin)
        predictor = _open(self.source, self.engine)
        with progress_bar("embed") as progress:
            found = embed_folder(
                predictor, self.source, paths, self.out, half=self.half, rows=self.shard, batch_size=self.batch_size,
                workers=self.workers, progress=progress,
            )  # fmt: skip
        say(f"features: {self.out} ({found.images} images, {found.dim} numbers each, {found.dtype})")
        if found.skipped:
            path, reason = found.skipped[0]
            say(
                f"{counted(len(found.skipped), 'image')} cannot be read, for instance {path}: {reason} "
                f"({self.out}/embedding.json)"
            )


@dataclasses.dataclass(frozen=True)
class Search:
    """Find the images of `steadyclip embed` that are nearest to words or to an image."""

    features: Positional[Path]
    """Folder that `steadyclip embed` wrote."""
    engine: OmitArgPrefixes[EngineOptions]
    words: Positional[str | None] = None
    """What the images show: a whole sentence, as no template is applied."""
    image: Path | None = None
    """Search by this image instead."""
    top: Count = 10
    """Images to give."""
    source: str | None = None
    """The model, where it has been moved since `steadyclip embed`."""
    html: Path | None = None
    """Write a page of thumbnails."""
    json: bool = False
    """Print JSON instead of lines."""

    def __call__(self) -> None:
        from steadyclip.core.files import write_atomic
        from steadyclip.deploy.embedding import open_embedding, search
        from steadyclip.deploy.thumbnails import page_of

        if (self.words is None) == (self.image is None):
            raise UsageError('give words or --image: steadyclip search FEATURES "a red bicycle"')
        about = open_embedding(self.features)
        predictor = _open(self.source or about.source, self.engine)
        query_D = predictor.embed(self.image) if self.image else predictor.embed_text(self.words or "")
        found = search(self.features, query_D, predictor.engine.weights, self.top)
        if self.html:
            write_atomic(self.html, page_of(self.words or f"like {self.image}", found).encode())
            print(f"page: {self.html}", file=sys.stderr)
        if self.json:
            print_json([{"path": path, "score": score} for score, path in found])
        else:
            say(*(f"{score:.4f}  {path}" for score, path in found))
