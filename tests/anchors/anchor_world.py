"""Small pools of pairs in every kind of source."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image


def png(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    """A smooth random picture, another for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, first: int, count: int):
    """Pairs ``first`` to ``first + count``, in several row groups."""
    numbers = range(first, first + count)
    table = pa.table(
        {
            "path": [f"pair-{n}" for n in numbers],
            "image": pa.array([png(n) for n in numbers], pa.binary()),
            "text": [f"picture number {n}" for n in numbers],
        }
    )
    parquet.write_table(table, path, row_group_size=7)
    return path


def write_tar(path, first: int, count: int, texts: str = ".txt"):
    """The same pairs as a shard; ``texts`` is the kind of file that the text is in."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for n in range(first, first + count):
            text = f"picture number {n}"
            written = text if texts == ".txt" else json.dumps({"caption": text})
            for suffix, data in ((".png", png(n)), (texts, written.encode())):
                member = tarfile.TarInfo(f"pair-{n}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_folder(path, first: int, count: int):
    """The same pairs as files with a table of texts."""
    path.mkdir()
    with open(path / "texts.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "text"])
        for n in range(first, first + count):
            (path / f"pair-{n}.png").write_bytes(png(n))
            rows.writerow([f"pair-{n}.png", f"picture number {n}"])
    return path
