"""Odd surroundings of a process: each function changes those of the process that calls it."""

from __future__ import annotations

import os
import pwd
import sys
import time


def no_home() -> None:
    """An account without a home, neither in the environment nor in the password file."""

    def missing(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd.getpwuid = missing  # pyright: ignore[reportAttributeAccessIssue]
    os.environ.pop("HOME", None)
    os.environ.pop("STEADYCLIP_CACHE", None)


def closed() -> None:
    """Standard output is closed, as after ``>&-``."""
    os.close(1)
    sys.stdout = None  # pyright: ignore[reportAttributeAccessIssue]  (as Python starts then)


def full() -> None:
    """Standard output is a full disk."""
    sys.stdout = open("/dev/full", "w")  # noqa: SIM115


def backwards() -> None:
    """Each look at the clock is an hour before the last."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    time.time = earlier  # pyright: ignore[reportAttributeAccessIssue]
    time.time_ns = lambda: int(earlier() * 1e9)  # pyright: ignore[reportAttributeAccessIssue]
