"""Work on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine for as long as it is used."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

from steadyclip.core.errors import SteadyClipError

_PATIENCE = 10.0
"""Seconds for a cluster to answer at all. Ray itself asks for minutes, and says so line by line."""


def need_ray() -> None:
    """Raises ``SteadyClipError`` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise SteadyClipError('ray is not installed: pip install "steadyclip[ray]".')


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """The package, connected to a cluster.

    Raises:
        SteadyClipError: Ray is not installed, or the cluster cannot be reached.
    """
    need_ray()
    import ray  # pyright: ignore[reportMissingImports]

    address = os.environ.get("RAY_ADDRESS")
    try:
        if address and (place := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)):
            socket.create_connection((place[1], int(place[2])), _PATIENCE).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, OverflowError, ValueError, RuntimeError, ImportError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        first = said.splitlines()[0].rstrip(".")
        where = f" at {address} (RAY_ADDRESS)" if address else ""
        raise SteadyClipError(
            f"there is no Ray cluster{where}: {first}. Start one with `ray start --head`, or leave RAY_ADDRESS out to "
            "use this machine alone."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
