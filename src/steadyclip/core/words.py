"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, thing: str, one: str = "", several: str = "") -> str:
    """``1 shot``, ``2 shots`` or ``2 classes``; with a verb in both forms ``1 image is`` or ``2 images are``."""
    ending = "" if number == 1 else "es" if thing.endswith("s") else "s"
    verb = one if number == 1 else several
    return f"{number} {thing}{ending}" + (f" {verb}" if verb else "")
