"""The service beside bare calls of the model: images a second for many clients, over those of one loop, in one run.

    python benchmarks/serve.py                             # icons-small
    python benchmarks/serve.py --vit-b16 --requests 32     # a random model of the common size, on photos of 640 x 480

The bare loop decodes and names the same encoded images in batches of 32, with the same weights, threads and process.
The clients are threads of a process of their own, each with one connection, and send the next image when they have the
answer. The two sides take turns; printed are medians. On a machine that does other work, look at the CPU seconds: those
of the process that has the model, with HTTP, and with decoding unless --workers moves that elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from measuring import random_vit_b16

import steadyclip as sc
from steadyclip.deploy.checking import pictures_of
from steadyclip.deploy.opening import Opened, open_source
from steadyclip.deploy.serving.app import Limits, Service
from steadyclip.methods import get_method

NAMES = [f"thing {number}" for number in range(100)]
TEMPLATE = "a photo of a {}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="icons-small")
    parser.add_argument("--vit-b16", action="store_true")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ask", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(int(options.ask[0]), Path(options.ask[1]), options.clients, options.requests)
        return
    torch.set_num_threads(options.threads)
    predictor = sc.Predictor(opened(options.model, options.vit_b16))
    size = (640, 480) if options.vit_b16 else (128, 128)
    pictures = encoded(size)
    work = [pictures[i % len(pictures)] for i in range(options.requests)]
    with tempfile.TemporaryDirectory() as folder, serving(predictor, options.workers) as port:
        for number, picture in enumerate(pictures):
            Path(folder, f"{number}.jpg").write_bytes(picture)
        words = [sys.executable, __file__, "--ask", str(port), folder, "--clients", str(options.clients)]
        words += ["--requests", str(options.requests)]
        calls: dict[str, Callable[[], float]] = {
            "bare": lambda: bare(predictor, work, options.workers),
            "service": lambda: float(subprocess.run(words, check=True, capture_output=True, text=True).stdout),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        bare(predictor, work[:8], options.workers)
        for run in range(options.runs):
            for name in sorted(calls, reverse=run % 2 == 1):
                start = time.process_time()
                wall = calls[name]()
                found[name].append((wall, time.process_time() - start))
    print(
        f"{predictor.opened.model.name}, {options.clients} clients, {options.requests} requests, {options.runs} runs, "
    )
    print(f"{options.threads} threads, {options.workers} workers, torch {torch.__version__}")
    for index, clock in enumerate(("wall", "CPU")):
        bare_s, service_s = (statistics.median(each[index] for each in found[name]) for name in ("bare", "service"))
        n = options.requests
        print(
            f"{clock:>5}: bare {n / bare_s:.1f} images/s  service {n / service_s:.1f}  ratio {bare_s / service_s:.3f}"
        )


def opened(model: str, vit_b16: bool) -> Opened:
    if not vit_b16:
        return open_source(model, names=NAMES, templates=[TEMPLATE])
    random, method = random_vit_b16(), get_method("zero-shot")
    method.attach(random, NAMES)
    return Opened("random", random, method, "0" * 16, tuple(NAMES), (TEMPLATE,))


def encoded(size: tuple[int, int]) -> list[bytes]:
    """JPEG files of made images."""
    found = []
    for image in pictures_of(None, 16).images:
        buffer = io.BytesIO()
        image.resize(size).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def bare(predictor: sc.Predictor, work: list[bytes], workers: int) -> float:
    start = time.perf_counter()
    predictor(work, batch_size=32, workers=workers)
    return time.perf_counter() - start


@contextmanager
def serving(predictor: sc.Predictor, workers: int) -> Iterator[int]:
    """The service on a thread of this process, as the command has it on its only one; its port."""
    service = Service(predictor, "bench", workers=workers, limits=Limits(answer_seconds=600))
    config = uvicorn.Config(service.app, port=0, log_level="error", access_log=False, server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def ask(port: int, folder: Path, clients: int, requests: int) -> None:
    """Send all requests, and print the seconds they took."""
    pictures = [path.read_bytes() for path in sorted(folder.iterdir())]

    def client(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        answered = 0
        for i in range(number, requests, clients):
            connection.request("POST", "/predict", pictures[i % len(pictures)], {"content-type": "image/jpeg"})
            answer = connection.getresponse()
            assert len(json.loads(answer.read())) == 5, answer.status
            answered += 1
        return answered

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        assert sum(pool.map(client, range(clients))) == requests
        print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
