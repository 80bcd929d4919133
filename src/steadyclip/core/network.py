"""``--offline``: no connection leaves this computer."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from typing import Any


class Offline(ConnectionError):
    """A connection was asked for under ``--offline``."""


def go_offline() -> None:
    """From now on this process and those that it forks connect to this computer alone. Those that it starts in another
    way have the switch of the hub's client, ``HF_HUB_OFFLINE``, in their environment."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo" and not _is_here(host := _text(args[0]), names=True):
        raise Offline(f"--offline: {host} is not looked up")
    if event == "socket.connect" and isinstance(args[1], tuple) and not _is_here(host := _text(args[1][0])):
        raise Offline(f"--offline: no connection to {host}")


def _text(host: Any) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes | bytearray) else str(host or "")


def _is_here(host: str, *, names: bool = False) -> bool:
    """Whether ``host`` is this computer; with ``names``, an address of any computer needs no look-up either."""
    if host in ("", "localhost", socket.gethostname()):
        return True
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        return names or address.is_loopback
    return False
