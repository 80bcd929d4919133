"""`steadyclip data build` and `steadyclip pretrain`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import say
from steadyclip_lab.pretrain.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class DataBuild:
    """Build a built-in data set into the cache; nothing is done if it is there."""

    name: Positional[Literal["icons"]] = "icons"
    """Which."""
    sheet: Path | None = None
    """Also write a contact sheet of every class to look at (.png)."""

    def __call__(self) -> None:
        from steadyclip_lab.icons import build, contact_sheet

        say(f"built: {build()}")
        if self.sheet:
            say(f"contact sheet: {contact_sheet(self.sheet)}")


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a small CLIP from image-text pairs; the same command again resumes."""

    config: OmitArgPrefixes[PretrainConfig]

    def __call__(self) -> None:
        from steadyclip_lab.pretrain.stages import pretrain

        pretrain(self.config, log=say)
