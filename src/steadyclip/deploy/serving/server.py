"""Runs the service: its token, its process, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import SteadyClipError, UsageError

if TYPE_CHECKING:
    from steadyclip.deploy.predictor import Predictor

TOKEN = "STEADYCLIP_TOKEN"
_FINISH = 10
"""Seconds for answers in work when the service is told to end."""


def read_token(host: str, file: Path | None, auth: bool) -> str | None:
    """The token that clients must send, from ``file`` or the environment; None where there is none.

    It is never an argument, as other users can see those.

    Raises:
        UsageError: the file cannot be used, or others can reach ``host`` and there is no token.
    """
    token = os.environ.get(TOKEN, "").strip()
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {file} cannot be read: {error}.") from None
        if not token:
            raise UsageError(f"--token-file {file} is empty: write a token into it.")
    if not token and auth and not _own(host):
        raise UsageError(
            f"others can reach {host}: name a token with --token-file or {TOKEN}, or let everyone in with --no-auth."
        )
    return token or None


def _own(host: str) -> bool:
    """Whether only this computer can reach ``host``."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(
    predictor: Predictor, host: str, port: int, *, name: str, token: str | None = None, compare: bool = False,
    workers: int = 0, origins: tuple[str, ...] = (), say: Callable[[str], None] = lambda line: None, **limits: Any,
) -> None:  # fmt: skip
    """Answer until the process is told to end (SIGTERM, Ctrl-C); what is in work is then finished.

    Args:
        compare: of a run, also serve its pretrained model.
        limits: fields of ``app.Limits``.

    Raises:
        SteadyClipError: a library is missing, or the address is taken.
    """
    try:
        import uvicorn

        from steadyclip.deploy.serving.app import Limits, Service
    except ImportError as error:
        raise SteadyClipError(f"{error.name} is not installed: pip install 'steadyclip[serve]'.") from None
    before = predictor_before(predictor) if compare else None
    service = Service(
        predictor, name, before=before, token=token, origins=origins, workers=workers, limits=Limits(**limits)
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                at = self.servers[0].sockets[0].getsockname()
                shown = f"[{at[0]}]" if ":" in at[0] else at[0]
                say(f"{name}: {len(predictor.names)} classes, {'with a token' if token else 'without a token'}")
                say(f"listening at http://{shown}:{at[1]} (page /, interfaces /docs, metrics /metrics); Ctrl-C ends it")

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's, but the process then ends by itself, with exit code 0."""
            known = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in known}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        service.app, host=host, port=port, log_level="error", access_log=False, server_header=False,
        timeout_graceful_shutdown=_FINISH,
    )  # fmt: skip
    server = Server(config)
    try:
        server.run()
    except SystemExit:  # uvicorn's word for an address that it cannot have
        raise SteadyClipError(f"cannot listen at {host}:{port}: it is taken, or not of this computer.") from None
    if not server.started:
        raise SteadyClipError(f"cannot listen at {host}:{port}: it is taken, or not of this computer.")


def predictor_before(predictor: Predictor) -> Predictor | None:
    """The pretrained model that a run started from, for the same names; None where that is unknown or not there."""
    from steadyclip.deploy.opening import pretrained
    from steadyclip.deploy.predictor import Predictor

    if predictor.opened is None:
        return None
    own = dataclasses.replace(predictor.opened, classes=predictor.names, templates=predictor.templates)
    found = pretrained(own)
    return Predictor(found) if found else None
