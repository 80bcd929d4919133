"""What images are, as a hash over their encoded bytes: the same under other names, another one after any change.

A file is read once as long as its size and time of change are the same, also by the next process: large sets keep what
was hashed in the cache folder. Images in tables are remembered within a process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import cache_folder, write_atomic
from steadyclip.data.decode import UnreadableImage

if TYPE_CHECKING:
    from steadyclip.data.images import Store

Known = dict[str, tuple[int, int, str]]
"""Key -> size and time of change of its file, and the digest of the image."""

# Images that one thread takes at a time, and as many new ones as are worth a file in the cache folder.
_BLOCK, _WORTH_A_FILE = 64, 500
# A file as young as this may change once more without another time of change.
_YOUNG_NS = 2 * 10**9

_known: dict[str, Known] = {}
_lock = threading.Lock()


def content_hash(store: Store, keys: Sequence[str], labels: Sequence[Any], about: Any) -> str:
    """16 hex digits over the images ``keys`` with their ``labels``, in any order, and over ``about``.

    An image that cannot be had counts as one without bytes.
    """
    pairs = sorted(json.dumps([digest, label]) for digest, label in zip(digests(store, keys), labels, strict=True))
    text = json.dumps([about, pairs], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(store: Store, keys: Sequence[str]) -> list[str]:
    """32 hex digits over the bytes of each image, "" for one that cannot be had."""
    place = getattr(store, "file", None)
    name = repr(store) if place else ""
    known = _remembered(name) if place else {}
    fresh: Known = {}
    now = time.time_ns()

    def digest(key: str) -> str:
        size, changed = _stamp(place(key)) if place else (-1, -1)
        old = known.get(key)
        if old and old[:2] == (size, changed) and size >= 0:
            return old[2]
        try:
            found = digest_of(store.read(key))
        except UnreadableImage:
            return ""
        if 0 <= changed < now - _YOUNG_NS:
            fresh[key] = size, changed, found
        return found

    blocks = [keys[i : i + _BLOCK] for i in range(0, len(keys), _BLOCK)]
    with threads(min(8, 2 * (os.cpu_count() or 1))) as pool:
        found = [each for block in pool.map(lambda block: [digest(key) for key in block], blocks) for each in block]
    with _lock:
        known.update(fresh)
    if len(fresh) >= _WORTH_A_FILE:
        with contextlib.suppress(SteadyClipError):  # a cache that cannot be written costs time only
            encoded = msgspec.json.encode(known)
            write_atomic(_file(name), msgspec.json.encode((digest_of(encoded), known)))
    return found


def digest_of(data: bytes) -> str:
    """32 hex digits over an encoded image."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads; when something is raised, such as by Ctrl-C, nobody waits for what is still to do."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of change of a file; -1 where there is none."""
    try:
        stat = os.stat(file)
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _remembered(name: str) -> Known:
    with _lock:
        if name not in _known:
            _known[name] = {}
            with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                sum_, known = msgspec.json.decode(_file(name).read_bytes(), type=tuple[str, Known])
                if digest_of(msgspec.json.encode(known)) == sum_:  # else it is damaged, and made again
                    _known[name] = known
        return _known[name]


def _file(name: str) -> Path:
    return cache_folder() / "content" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
