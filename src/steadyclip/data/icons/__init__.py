"""The icon world: data sets of drawings that people made and named, built offline from open icon packs."""

from __future__ import annotations

from steadyclip.data.icons.build import BUILTIN, build, built, cache_folder
from steadyclip.data.icons.sheet import contact_sheet

__all__ = ["BUILTIN", "build", "built", "cache_folder", "contact_sheet"]
