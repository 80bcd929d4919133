"""The icon world: data sets of drawings that people made and named, built offline from open icon packs."""

from __future__ import annotations

from steadyclip.data.icons.building import BUILTIN, build, built, cache_folder, pretraining_pairs
from steadyclip.data.icons.sheet import contact_sheet

__all__ = ["BUILTIN", "build", "built", "cache_folder", "contact_sheet", "pretraining_pairs"]
