"""Seeds from words and numbers: no random state has to be carried along or saved."""

from __future__ import annotations

import hashlib


def step_seed(*words: object) -> int:
    """A 63-bit seed; the same for the same words on every machine."""
    text = "/".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
