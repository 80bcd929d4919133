from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image


def png(text: str) -> bytes:
    """A 6x4 image of one color that depends on ``text``."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), tuple(zlib.crc32(text.encode()).to_bytes(4, "big")[:3])).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[[str], bytes]:
    return png


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder({"cat": 3, "dog": 2})`` makes cat/00.png ...; keys may hold slashes ("train/cat")."""

    def make(counts: Mapping[str, int], name: str = "pets") -> Path:
        root = tmp_path / name
        for place, count in counts.items():
            (root / place).mkdir(parents=True)
            for index in range(count):
                path = root / place / f"{index:02}.png"
                path.write_bytes(png(f"{place}/{index}"))
        return root

    return make
