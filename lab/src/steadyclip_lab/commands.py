"""`steadyclip data build` and `steadyclip pretrain`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import say
from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.limits import Count
from steadyclip.data.builtin import builtin_names, find_builtin
from steadyclip_lab.pretrain.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class DataBuild:
    """Build built-in data sets into the cache; nothing is done for those that are there."""

    names: Positional[tuple[str, ...]] = ()
    """Which; all by default."""
    sheet: Path | None = None
    """Also write a contact sheet of every class to look at (.png); for one data set."""
    folder: Path | None = None
    """Also write the images as files, `class/image`, like a folder of one's own; for one data set."""
    classes: Count | None = None
    """For --folder: only so many classes; all of them if not given."""

    def __call__(self) -> None:
        from steadyclip_lab.suite.folder import write_folder
        from steadyclip_lab.suite.plan import DATA_SETS
        from steadyclip_lab.suite.sheet import contact_sheet

        for flag in ("sheet", "folder"):
            if getattr(self, flag) and len(self.names) != 1:
                raise UsageError(f"--{flag} takes one data set: name it.")
        if self.classes and not self.folder:
            raise UsageError("--classes is for --folder: built-in data sets are built whole.")
        found = {name: find_builtin(name) for name in self.names or DATA_SETS}
        for name, known in found.items():
            if known is None:
                raise UsageError(
                    f"no built-in data set {name!r}.{nearest(name, builtin_names())} There are: "
                    f"{', '.join(builtin_names())}."
                )
        for known in filter(None, found.values()):
            say(f"built: {known.table()}")
        if self.sheet:
            say(f"contact sheet: {contact_sheet(self.sheet, self.names[0])}")
        if self.folder:
            images, classes = write_folder(self.folder, self.names[0], self.classes)
            say(f"folder: {self.folder}, {images} images of {classes} classes")


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a small CLIP from image-text pairs; the same command again resumes."""

    config: OmitArgPrefixes[PretrainConfig]

    def __call__(self) -> None:
        from steadyclip_lab.pretrain.stages import pretrain

        pretrain(self.config, log=say)
