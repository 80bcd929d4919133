"""Search and embedding of pools at size: throughput, overhead of engines, memory, recall. One JSON line each.

    python benchmarks/scale.py search --threads 1      # beside a plain product and topk over the same files, in turn
    python benchmarks/scale.py recall                  # 1 M rows against one float64 product
    python benchmarks/scale.py large                   # 10 M rows x 2,000 queries: time and peak of anonymous memory
    python benchmarks/scale.py ray                     # Ray beside local processes, on units of the same size

``search`` counts pairs of queries and rows a second; the peer multiplies the same chunks of the same mapped files
and keeps the best k by topk, in one pass, without the second look in float64, and without reading the files once more
for their digests. Ratio: ours over the peer, more is better. ``ray``: both over the same units, its start included;
less is better. ``--clock cpu`` counts processor seconds, those of all processes in ``ray``: for a machine that others
use too. The pool lies in a temporary folder (TMPDIR) that is removed: 20 GB for ``large``, half with ``--features
float16``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from measuring import CLOCKS, in_turn
from retrieval import anonymous_memory, random_pool, unit

from steadyclip.anchors.engines import How
from steadyclip.anchors.finding import find
from steadyclip.anchors.pool import Features, Pool
from steadyclip.anchors.search import CHUNK, QUERIES, Queries, search

K = 10


def main() -> None:
    parts: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
        "search": throughput, "recall": recall, "large": large, "ray": overhead,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--rows", type=int, help="pairs of the pool")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--features", choices=get_args(Features), default="float32")
    parser.add_argument("--units", type=int, default=4, help="of the part ray")
    parser.add_argument("--jobs", type=int, default=2, help="actors of the part ray, and processes beside it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = parts[options.part](Path(folder), options)
    about = {"machine": platform.machine(), "threads": options.threads, "torch": torch.__version__}
    print(json.dumps({"part": options.part, **found, **about}))


def made(folder: Path, options: argparse.Namespace, rows: int) -> tuple[Pool, Queries]:
    """A random pool, and random queries by image."""
    pool = random_pool(folder / "pool", options.rows or rows, options.width, options.features)
    return pool, Queries({"image": torch.from_numpy(unit(1, options.queries, options.width))}, ("image",))


def throughput(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    pool, queries = made(folder, options, 500_000)
    found: dict[str, torch.Tensor] = {}

    def ours() -> None:
        found["ours"] = search(pool, queries, K).rows

    def plain() -> None:
        blocks = queries.features["image"].split(QUERIES)
        best: list[tuple[torch.Tensor, torch.Tensor]] = []
        for first, chunk_ND in plain_chunks(pool):
            for i, block_QD in enumerate(blocks):
                scores, rows = (block_QD @ chunk_ND.T).topk(K, dim=1)
                if len(best) <= i:
                    best.append((scores, rows + first))
                    continue
                joined = torch.cat([best[i][0], scores], 1), torch.cat([best[i][1], rows + first], 1)
                scores, at = joined[0].topk(K, dim=1)
                best[i] = scores, joined[1].gather(1, at)
        found["plain"] = torch.cat([rows for _, rows in best])

    mine, peer = in_turn(options.runs, {"ours": ours, "plain": plain}, options.clock).values()
    pairs = len(pool) * len(queries)
    same = float(
        np.mean([len({*a} & {*b}) / K for a, b in zip(found["ours"].tolist(), found["plain"].tolist(), strict=True)])
    )
    return {
        "rows": len(pool), "queries": len(queries), "width": options.width, "features": options.features,
        "pairs a second": round(pairs / mine), "of the plain product": round(peer / mine, 3), "rows in common": same,
        "clock": options.clock,
    }  # fmt: skip


def plain_chunks(pool: Pool) -> Iterator[tuple[int, torch.Tensor]]:
    """First row and image features (N, D) float32, as a plain program reads them."""
    first = 0
    for part in pool.manifest.parts:
        array = np.load(pool.file(part, "image.npy"), mmap_mode="c")
        for begin in range(0, part.rows, CHUNK):
            yield first + begin, torch.from_numpy(array[begin : begin + CHUNK]).float()
        first += part.rows


def recall(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    pool, queries = made(folder, options, 1_000_000)
    found = search(pool, queries, K).rows.numpy()
    query_QD, best = queries.features["image"].double().numpy(), []
    for first, arrays in pool.chunks(("image",), 100_000):
        scores = np.round(query_QD @ arrays["image"].astype(np.float64).T * 1e6)
        at = np.argpartition(-scores, K, axis=1)[:, : K + 1]
        best.append((np.take_along_axis(scores, at, 1), at + first))
    scores, rows = (np.concatenate(column, axis=1) for column in zip(*best, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :K]
    expected = np.take_along_axis(rows, order, 1)
    return {
        "rows": len(pool),
        "queries": len(queries),
        "width": options.width,
        "recall": float((found == expected).mean()),
    }


def large(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    pool, queries = made(folder, options, 10_000_000)
    before, peak, stop = anonymous_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous_memory())

    watcher, start = threading.Thread(target=watch), {name: clock() for name, clock in CLOCKS.items()}
    watcher.start()
    search(pool, queries, K)
    seconds = {f"{name} seconds": round(clock() - start[name], 1) for name, clock in CLOCKS.items()}
    stop.set()
    watcher.join()
    return {
        "rows": len(pool), "queries": len(queries), "width": options.width, "features": options.features, **seconds,
        "peak MB": round(peak[0]), "MB before": round(before),
    }  # fmt: skip


def overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    pool, queries = made(folder, options, 4_000_000)
    seconds = {}
    for name, how in {"local": How(jobs=options.jobs), "ray": How("ray", options.jobs)}.items():
        rows = -(-len(pool) // options.units)
        with elapsed(options.clock) as spent:
            found = find(pool, queries, K, folder / f"{name}.parquet", {"engine": name}, how=how, unit_rows=rows)
        assert found is not None
        seconds[name] = spent[0]
    return {
        "rows": len(pool), "units": options.units, "jobs": options.jobs, "queries": len(queries),
        "clock": options.clock,
        **{f"{name} seconds": round(value, 1) for name, value in seconds.items()},
        "ratio": round(seconds["ray"] / seconds["local"], 2),
    }  # fmt: skip


@contextlib.contextmanager
def elapsed(clock: str) -> Iterator[list[float]]:
    """A list that has the seconds inside: of the wall, or of the processor in this process and all that it starts."""
    spent, stop, most = [0.0], threading.Event(), dict[str, float]()

    def watch() -> None:
        last = False
        while not last:
            last = stop.wait(0.1)
            most.update(processor_seconds())  # an ended process keeps what was seen of it last

    before = processor_seconds()
    watcher, start = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    yield spent
    stop.set()
    watcher.join()
    spent[0] = time.perf_counter() - start
    if clock == "cpu":
        spent[0] = sum(seconds - before.get(process, 0) for process, seconds in most.items())


def processor_seconds() -> dict[str, float]:
    """Number of this process, and of each that comes from it, with its start -> seconds."""
    parents, found = dict[str, str](), dict[str, tuple[str, float]]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            process = stat.parent.name
            parents[process] = fields[1]
            found[process] = f"{process} {fields[19]}", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ours(process: str) -> bool:
        return process == str(os.getpid()) or (process in parents and ours(parents[process]))

    return dict(found[process] for process in found if ours(process))


if __name__ == "__main__":
    main()
