"""What is looked at before a body is read: the token, the size, the time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token: the page, which asks for it, and whether the service is up."""
_LINGER = 1.0
"""Seconds in which the rest of a body that is not wanted is thrown away."""


class Refusal(Exception):
    """A request that is not answered: an HTTP status, and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers


def error_body(sentence: str) -> bytes:
    """The body of every answer that is an error."""
    return json.dumps({"error": sentence}, ensure_ascii=False).encode()


class Guard:
    """ASGI middleware in front of everything.

    Args:
        app: what comes behind it.
        token: what clients must send as ``Authorization: Bearer TOKEN``; None lets everyone in.
        most_bytes: of a body, counted as it arrives, whatever its header says.
        body_seconds: in which a body must arrive.
        seen: is told path, status and seconds of each answer.
    """

    def __init__(
        self, app: Any, *, token: str | None, most_bytes: int, body_seconds: float,
        seen: Callable[[str, int, float], None],
    ) -> None:  # fmt: skip
        self.app, self.token, self.most, self.body_seconds, self.seen = app, token, most_bytes, body_seconds, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            try:
                self._check(scope["path"], headers)
            except Refusal as refusal:
                await _discard(receive)
                await _refuse(refusal, watched)
                return
            await self.app(scope, self._counted(receive), watched)
        finally:
            self.seen(scope["path"], status, time.perf_counter() - start)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.token is not None and path not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                raise Refusal(
                    401, "a token is needed: send it as Authorization: Bearer TOKEN.", **{"www-authenticate": "Bearer"}
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"the body is larger than {self.most / 2**20:g} MiB: send a smaller image.", connection="close"
        )

    def _counted(self, receive: Receive) -> Receive:
        """``receive`` with the limits; they end with the body, after which it only tells of a hang-up."""
        read, whole = 0, False
        deadline = time.monotonic() + self.body_seconds

        async def counted() -> MutableMapping[str, Any]:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except (TimeoutError, asyncio.TimeoutError):
                raise Refusal(
                    408, f"the body did not arrive within {self.body_seconds:g} s.", connection="close"
                ) from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self.most:
                await _discard(receive)
                raise self._too_large()
            return message

        return counted


async def _discard(receive: Receive) -> None:
    """Let a client that is still sending finish, for a moment: many look for the answer only then."""
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        deadline = time.monotonic() + _LINGER
        while (await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))).get("more_body", False):
            pass


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = error_body(refusal.sentence)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
