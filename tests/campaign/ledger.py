"""What was tried and what failed, a line of JSON for each part that is done: a campaign that is stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from steadyclip.core.provenance import commit


@dataclass(frozen=True)
class Part:
    """Tries ``first`` to ``first + tried`` of one kind.

    Attributes:
        failed: a line for each failure, which says how to repeat it.
        memory: peak of the process that was tried, in MB.
        seconds: of the processor.
        code: commit of the code that was tried.
    """

    kind: str
    first: int
    tried: int
    failed: list[str] = field(default_factory=list)
    memory: float = 0.0
    seconds: float = 0.0
    code: str | None = field(default_factory=commit)


class Ledger:
    """The parts in the file ``path``; each new one is written there and printed."""

    def __init__(self, path: Path) -> None:
        self.path, self.parts = path, list[Part]()
        if path.is_file():
            whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            path.write_text("".join(whole), encoding="utf-8")  # less a line that was cut off
            self.parts = [Part(**json.loads(line)) for line in whole]

    def left(self, kind: str, count: int, size: int) -> Iterator[tuple[int, int]]:
        """First number and size of the parts of ``count`` tries that are not done."""
        done = {
            number for part in self.parts if part.kind == kind for number in range(part.first, part.first + part.tried)
        }
        for first in range(0, count, size):
            if first not in done:
                yield first, min(size, count - first)

    def add(self, part: Part) -> None:
        self.parts.append(part)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(part)) + "\n")
        for line in part.failed[:10]:
            print(f"{part.kind}: {line}", flush=True)

    @property
    def failed(self) -> int:
        return sum(len(part.failed) for part in self.parts)

    def table(self) -> str:
        """Markdown: a row for each kind, in the order in which they were first tried."""
        rows = ["| kind | tried | failed | peak memory, MB | seconds |", "| --- | ---: | ---: | ---: | ---: |"]
        for kind in dict.fromkeys(part.kind for part in self.parts):
            parts = [part for part in self.parts if part.kind == kind]
            tried, failed = sum(part.tried for part in parts), sum(len(part.failed) for part in parts)
            memory, seconds = max(part.memory for part in parts), sum(part.seconds for part in parts)
            rows.append(f"| {kind} | {tried:,} | {failed} | {memory:,.0f} | {seconds:,.0f} |")
        return "\n".join(rows)
