"""The icon world: data sets of drawings that people made and named, built offline from open icon packs."""

from __future__ import annotations

from steadyclip_lab.icons.building import build, built, cache_folder, pretraining_pairs
from steadyclip_lab.icons.sheet import contact_sheet

__all__ = ["build", "built", "cache_folder", "contact_sheet", "pretraining_pairs"]
