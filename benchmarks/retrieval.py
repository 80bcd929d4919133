"""Embedding a pool and searching it, each beside a peer in the same run, in turn.

    pip install faiss-cpu
    python benchmarks/retrieval.py                            # search, embedding, memory
    python benchmarks/retrieval.py search --threads 1 --clock cpu    # on a machine that others use too

search: 1,000 queries, top 10 of 200,000 x 512, from the memory-mapped pool, beside faiss' flat index in memory
(building it is not counted). Medians, and the share of rows that both found. Ratio: ours over faiss; less is better.

embed: pairs per second of `embed_pool`, from PNG files of 256 pixels in a tar to features on disk, over those of the
bare forward passes on tensors that are ready; ViT-B/16 with random weights. Ratio: ours over the bare ones; more is
better.

memory: peak of anonymous memory while a pool of 1,000,000 rows is searched, sampled every 5 ms; what is mapped from
files does not count. The width is small (64) so that it does not take long; it changes the size of the files only.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from measuring import CLOCKS, in_turn, random_vit_b16

from steadyclip.anchors.embedding import embed_pool
from steadyclip.anchors.pool import KINDS, Features, FinishedPart, Manifest, Pool, Sources
from steadyclip.anchors.search import Queries
from steadyclip.anchors.search import search as search_pool
from steadyclip.core.files import file_digest

PARTS = ("search", "embed", "memory")
PART_ROWS = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all if not given")
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--pairs", type=int, default=48, help="to embed")
    parser.add_argument("--batch", type=int, default=16, help="pairs in a forward pass")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measured", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measured:
        search_large(options.measured)
        return
    print(
        f"{platform.machine()} {options.device}, {options.threads} threads, {options.clock} clock, "
        f"torch {torch.__version__}, {options.runs} runs"
    )
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts or PARTS:
            {"search": search, "embed": embed, "memory": memory}[part](Path(folder) / part, options)


def search(folder: Path, options: argparse.Namespace) -> None:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(options.threads)
    pool, queries_QD = random_pool(folder, 200_000, 512), unit(1, 1000, 512)
    index = faiss.IndexFlatIP(512)
    for part in pool.manifest.parts:
        index.add(pool.features(part, "image"))
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        queries = Queries({"image": torch.from_numpy(queries_QD)}, ("image",))
        found["ours"] = search_pool(pool, queries, 10).rows.numpy()

    def theirs() -> None:
        found["faiss"] = index.search(queries_QD, 10)[1]

    mine, peer = in_turn(options.runs, {"ours": ours, "faiss": theirs}, options.clock).values()
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found["ours"], found["faiss"], strict=True)])
    print(
        f"search: {mine:.2f} s, faiss {faiss.__version__} {peer:.2f} s, ratio {mine / peer:.2f}; "
        f"{100 * same:.2f} % of the rows in common"
    )


def embed(folder: Path, options: argparse.Namespace) -> None:
    folder.mkdir()
    model = random_vit_b16().to(options.device)
    shard = random_shard(folder / "shard.tar", options.pairs)
    pixels_BCHW = torch.zeros(options.batch, 3, 224, 224, device=options.device)
    tokens = model.tokenize([f"a random image number {i}" for i in range(options.batch)])
    made = 0

    def bare() -> None:
        with torch.inference_mode(), model.frozen():
            for _ in range(0, options.pairs, options.batch):
                model.encode_image(pixels_BCHW).cpu()
                model.encode_text(tokens).cpu()

    def pool() -> None:
        nonlocal made
        made += 1
        embed_pool(model, [shard], folder / f"pool{made}", batch_size=options.batch, workers=options.workers)

    pool()  # both warm, and the hash of the weights known
    ours, peer = in_turn(options.runs, {"pool": pool, "bare": bare}, options.clock, options.device).values()
    print(
        f"embed: {options.pairs / ours:.2f} pairs/s, bare forward passes {options.pairs / peer:.2f}, "
        f"ratio {peer / ours:.3f}"
    )


def memory(folder: Path, options: argparse.Namespace) -> None:
    """In a process of its own, which has not built the pool."""
    random_pool(folder, 1_000_000, 64)
    words = [sys.executable, __file__, "--measured", str(folder), "--threads", str(options.threads)]
    print(subprocess.run(words, check=True, capture_output=True, text=True).stdout, end="")


def search_large(folder: Path) -> None:
    pool, queries = Pool.open(folder), {kind: torch.from_numpy(unit(1, 1000, 64)) for kind in KINDS}
    before, peak, stop = anonymous_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    search_pool(pool, Queries(queries, ("image", "text"), 0.95), 10)
    stop.set()
    watcher.join()
    print(
        f"memory: {len(pool):,} rows x 64, image and text, 1,000 queries: peak {peak[0]:.0f} MB of anonymous memory, "
        f"{before:.0f} MB of it before the search (Python, torch)"
    )


def anonymous_memory() -> float:
    """MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def unit(seed: int, rows: int, width: int) -> np.ndarray:
    features = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def random_pool(folder: Path, rows: int, width: int, features: Features = "float32") -> Pool:
    """Random features in parts as `embed_pool` writes them, without pairs; those of the texts are the images'."""
    parts = []
    for first in range(0, rows, PART_ROWS):
        part, count = folder / f"part{first}", min(PART_ROWS, rows - first)
        part.mkdir(parents=True)
        image, text = (part / f"{kind}.npy" for kind in KINDS)
        np.save(image, unit(first, count, width).astype(features))
        os.link(image, text)
        sums = dict.fromkeys((image.name, text.name), file_digest(image))
        parts.append(FinishedPart(part.name, part.name, count, f"{first}", [], sums))
    Manifest("", "", "", width, 1, Sources({}, None, PART_ROWS), parts, features=features).write(folder)
    return Pool.open(folder)


def random_shard(path: Path, pairs: int) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i in range(pairs):
            picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).resize((256, 256))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            for suffix, data in ((".png", buffer.getvalue()), (".txt", f"a random image number {i}".encode())):
                member = tarfile.TarInfo(f"{i:06}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


if __name__ == "__main__":
    main()
