"""The data sets of the field by name: what they are, how they lie on disk, and whether they are complete."""

from steadyclip.data.catalog.checking import Finding, check, read, strangers
from steadyclip.data.catalog.entries import Entry, catalog, find, is_shift

__all__ = ["Entry", "Finding", "catalog", "check", "find", "is_shift", "read", "strangers"]
