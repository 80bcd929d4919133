"""Damaged inputs: bytes changed, cut, repeated; JSON of another shape; numbers, names and words that nobody means."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**70, 1e308, -0.5, "", "x", "\x1b[2J", "\u202e", "\ud800", "../../x", "NaN", [], [[]], {},
    {"a": 1}, ["x"] * 3, "=1+1", "a\nb", "a" * 5000,
)  # fmt: skip


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """``content`` with a few bytes changed, cut off, left out, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 64))
        match rng.randrange(6):
            case 0 | 1:
                for i in range(place, min(len(data), place + length)):
                    data[i] = rng.randrange(256)
            case 2 if rng.random() < 0.3:
                del data[place:]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case _:
                data[place:place] = rng.choice((b"\0", b"\xff", b"\xe9", b'"', b",", b"\n", b"{", b"9" * 30))
    return bytes(data)


def of_json(content: Any, rng: random.Random) -> bytes:
    """A JSON text like ``content`` with one value, or more, replaced, left out or added; sometimes no JSON at all."""
    if rng.random() < 0.15:
        return of_bytes(json.dumps(content).encode(), rng)
    if rng.random() < 0.01:
        return b"[" * 100_000
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = _place(content, rng)
        if holder is None:
            return json.dumps(rng.choice(VALUES)).encode()
        value = copy.deepcopy(rng.choice(VALUES))  # it may be changed in its turn
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("x", "schema", "kind", "\ud800"))] = value
            case _:
                holder[key] = value
    return json.dumps(content).encode()


def _place(content: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container somewhere in ``content`` with one of its keys; None where there is none."""
    found: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        found += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    return rng.choice(found) if found else (None, None)


def of_words(words: list[str], rng: random.Random) -> list[str]:
    """A command line with words replaced, left out, repeated or swapped."""
    words = list(words)
    odd = ("-1", "0", "nan", "inf", "1e400", "", " ", "x", "--", "-", "--help", "[", "lora[", "lora[rank=]", "@", "@x",
           "\x1b[2J", "caf\udce9", "../..", "/dev/null", "{}", "9" * 40, "None", "~nobody/x", "a" * 5000)  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(1, len(words)) if len(words) > 1 else 0
        match rng.randrange(5):
            case 0:
                del words[place]
            case 1:
                words.insert(place, rng.choice(odd))
            case 2:
                other = rng.randrange(len(words))
                words[place], words[other] = words[other], words[place]
            case _:
                words[place] = rng.choice(odd)
        if not words:
            return ["train"]
    return words
