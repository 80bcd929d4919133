"""Malformed requests to `serve`, over real sockets."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import select
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from campaign import damage
from campaign.process import Ended, Started, kill
from campaign.world import png

_CLIENTS = 16
_WAIT = 120
"""Seconds that a client waits for an answer: the machine may be busy."""
_STAY = 2
"""Seconds after which a client that has said all it has to say stops sending, so that nobody waits for the rest."""
_COMPUTING = 600
"""Seconds of the processor for a thousand requests."""
_GROWTH = 300
"""MB that the service may grow by."""
_PATHS = (
    "/predict", "/embed", "/", "/about", "/metrics", "/docs", "/openapi.json", "/v2/health/live", "/v2/models/run",
    "/v2/models/run/infer", "/v2/models/run/ready", "/predict?before=1", "/predict?top_k=2&threshold=0.1", "/nowhere",
    "//", "/%00", "/..%2f..%2fetc/passwd", "/v2/models/%ff/infer", "*", "http://other/predict",
)  # fmt: skip
_ODD_QUERIES = ("?top_k=", "?top_k=-1", "?top_k=1e9", "?threshold=nan", "?threshold=inf", "?top_k=%ff", "?&&==&", "?%")


class Visitor:
    """A context manager over a service and its clients.

    Attributes:
        problems: what was wrong with the service as a whole; there once it has ended.
        ended: how it ended.
    """

    ended: Ended

    def __init__(self, world: Path) -> None:
        self._world = world
        self.problems: list[str] = []

    def __enter__(self) -> Visitor:
        os.environ.pop("STEADYCLIP_TOKEN", None)
        words = ["serve", str(self._world / "run"), "--port", "0", "--no-before", "--max-megabytes", "1"]
        self._process = Started(words, [])
        self._port = int(self._process.said(r"listening at http://127\.0\.0\.1:(\d+)")[1])
        self._right = [self._right_answer() for _ in range(2)][1]
        self._start = self._memory()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            kill(self._process.pid)
            return
        with contextlib.suppress(OSError):
            if self._right_answer() == self._right:
                self._right = b""
        if self._right:
            self.problems.append("a right request is not answered as before")
        if (grown := self._memory() - self._start) > _GROWTH:
            self.problems.append(f"the service grew by {grown:,.0f} MB")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        self.ended = self._process.end(_COMPUTING)
        if self.ended.problem or self.ended.code or self.ended.error:
            self.problems.append(self.ended.problem or f"exit code {self.ended.code}: {self.ended.error[-300:]}")

    def send(self, numbers: Sequence[int], seed: int) -> list[str]:
        """Send the requests of these numbers; what is wrong with the answers."""

        def one(number: int) -> str:
            rng = random.Random(f"{seed}/requests/{number}")
            problem = self._wrong(_malformed(rng), rng)
            return f"number {number}: {problem}" if problem else ""

        with ThreadPoolExecutor(_CLIENTS) as pool:
            return [problem for problem in pool.map(one, numbers) if problem]

    def _wrong(self, request: bytes, rng: random.Random) -> str:
        """What is wrong with the answer to a request, or ""."""
        try:
            answer = self._ask(request, whole=rng.random() < 0.9)
        except TimeoutError:
            return f"no answer within {_WAIT} s to {request[:80]!r}"
        except OSError as error:
            return "" if isinstance(error, ConnectionError) and self._is_up() else f"{error} at {request[:80]!r}"
        if not answer:  # what is no request ends without an answer, or the client had hung up
            return ""
        head, _, body = answer.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if status is None:
            return f"{answer[:80]!r} is no answer to {request[:80]!r}"
        code = int(status[1])
        if not (code == 200 or 400 <= code < 500 or code == 503):
            return f"status {code} for {request[:200]!r}"
        if b"\r\ncontent-type: application/json" in head and code != 200 and b"HEAD " not in request:
            try:
                sentence = json.loads(body)["error"]
            except (ValueError, KeyError, TypeError):
                return f"{body[:80]!r} says nothing of an error, for {request[:80]!r}"
            if not sentence or "\n" in sentence or "Traceback" in sentence:
                return f"{sentence!r} is no sentence, for {request[:80]!r}"
        return ""

    def _right_answer(self) -> bytes:
        answer = self._ask(_request("POST", "/predict", png(1), "image/png"), stay=_WAIT)
        return answer.partition(b"\r\n\r\n")[2]

    def _ask(self, request: bytes, whole: bool = True, stay: float = _STAY) -> bytes:
        """The first answer to a request; b"" where the client does not stay for it."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_WAIT) as connection:
            connection.sendall(request if whole else request[: len(request) // 2])
            if not whole:
                return b""
            if not select.select([connection], [], [], stay)[0]:
                connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(2**16):
                parts.append(part)
            return _first(b"".join(parts))

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), timeout=_WAIT).close()
            return True
        return False

    def _memory(self) -> float:
        """Of the service, in MB."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            if found := re.search(r"VmRSS:\s+(\d+) kB", status):
                return int(found[1]) / 1024
        return 0.0


def _first(answers: bytes) -> bytes:
    """The first of several answers to what was one request or more."""
    head, end, rest = answers.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return head + end + (rest[: int(length[1])] if length else rest)


def _request(method: str, path: str, body: bytes, kind: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", *headers]
    lines += [f"content-type: {kind}"] if kind else []
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def _malformed(rng: random.Random) -> bytes:
    return rng.choice(_KINDS)(rng)


def _image(rng: random.Random) -> bytes:
    """An image that is damaged, or called something else."""
    content = png(rng.randrange(4), rng.choice(("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")))
    body = damage.of_bytes(content, rng) if rng.random() < 0.9 else rng.randbytes(rng.randrange(3000))
    kind = rng.choice(("image/png", "image/png", "image/x", "application/octet-stream", "text/plain", "", "\udcff"))
    query = rng.choice(("", "", "", *_ODD_QUERIES))
    return _request("POST", rng.choice(("/predict", "/embed")) + query, body, kind)


def _json_body(rng: random.Random) -> bytes:
    """JSON of another shape."""
    image = base64.b64encode(png(rng.randrange(4))).decode()
    bodies: list[tuple[str, Any]] = [
        ("/predict", {"inputs": image, "parameters": {"top_k": 2, "threshold": 0.5, "function_to_apply": "softmax"}}),
        ("/predict", {"inputs": image, "parameters": {"candidate_labels": ["a", "b"], "hypothesis_template": "x {}"}}),
        ("/embed", {"texts": ["a dog", "two cats"]}),
        ("/embed", {"inputs": image}),
        ("/v2/models/run/infer", {"id": "1", "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [2], "data": [image, image]}]}),
    ]  # fmt: skip
    path, content = rng.choice(bodies)
    return _request("POST", path, damage.of_json(content, rng), "application/json")


def _length(rng: random.Random) -> bytes:
    """A length that is not that of the body, or a body in chunks that are none."""
    body = png(1)
    length = rng.choice(("0", "-1", "1", str(len(body) - 1), str(len(body) + 1), str(10**12), "9" * 400, "x", "", "+3"))
    headers = [f"content-length: {length}"]
    if rng.random() < 0.4:
        headers = ["transfer-encoding: " + rng.choice(("chunked", "chunked, chunked", "gzip", "x"))]
        sizes = rng.choice((b"%x" % len(body), b"ffffffffffffffff", b"-1", b"zz", b"", b"1;" + b"x" * 9000))
        body = sizes + b"\r\n" + body + rng.choice((b"\r\n0\r\n\r\n", b"", b"0\r\n\r\n"))
    if rng.random() < 0.1:
        headers *= 2
    return _request("POST", "/predict", body, "image/png", *headers)


def _head(rng: random.Random) -> bytes:
    """A damaged first line or header."""
    method = rng.choice(("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "X" * 50, ""))
    headers = rng.sample(
        ("x: " + "y" * 70_000, "x" * 9000 + ": y", "authorization: Bearer \udcff", "expect: 100-continue", "x", ": x",
         "upgrade: websocket", "connection: upgrade", "host: y", "range: bytes=0-", "accept-encoding: gzip, br",
         "content-encoding: gzip", "cookie: " + "a=b;" * 500, "x: \x00\x1b[2J"), rng.randrange(3),
    )  # fmt: skip
    whole = _request(method, rng.choice(_PATHS) + rng.choice(("", "", *_ODD_QUERIES)), b"", "", *headers)
    return whole if rng.random() < 0.6 else damage.of_bytes(whole, rng)


def _anything(rng: random.Random) -> bytes:
    """Bytes that are no request, or several requests at once."""
    if rng.random() < 0.5:
        return rng.randbytes(rng.randrange(1, 2000))
    return b"".join(_malformed(rng) for _ in range(2)).replace(b"connection: close\r\n", b"")


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _image,
    _image,
    _json_body,
    _json_body,
    _length,
    _head,
    _anything,
)
