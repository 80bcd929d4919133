"""What images are, as a hash over their encoded bytes: the same under other names, another one after any change.

Within a process, a file is read again only after its size or its time of change has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from steadyclip.data.decode import UnreadableImage

if TYPE_CHECKING:
    from steadyclip.data.images import Store

# Images that one thread takes at a time.
_BLOCK = 64
# A file as young as this may change once more without another time of change.
_YOUNG_NS = 2 * 10**9

_known: dict[tuple[str, str, int, int], str] = {}
"""Digest by store, key, and size and time of change of the file."""


def content_hash(store: Store, keys: Sequence[str], labels: Sequence[Any], about: Any) -> str:
    """16 hex digits over the images ``keys`` with their ``labels``, in any order, and over ``about``.

    An image that cannot be had counts as one without bytes.
    """
    pairs = sorted(json.dumps([digest, label]) for digest, label in zip(_digests(store, keys), labels, strict=True))
    text = json.dumps([about, pairs], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digests(store: Store, keys: Sequence[str]) -> list[str]:
    """A digest of each image; "" for one that cannot be had."""
    place, name, now = getattr(store, "file", None), repr(store), time.time_ns()

    def digest(key: str) -> str:
        try:
            stat = os.stat(place(key)) if place else None
            identity = (name, key, stat.st_size, stat.st_mtime_ns) if stat else None
            if identity in _known:
                return _known[identity]
            found = hashlib.blake2b(store.read(key), digest_size=16).hexdigest()
        except (OSError, UnreadableImage):
            return ""
        if identity and identity[-1] < now - _YOUNG_NS:
            _known[identity] = found
        return found

    blocks = [keys[i : i + _BLOCK] for i in range(0, len(keys), _BLOCK)]
    with threads(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return [each for block in pool.map(lambda block: [digest(key) for key in block], blocks) for each in block]


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads; when something is raised, such as by Ctrl-C, nobody waits for what is still to do."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
