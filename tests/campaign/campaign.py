"""The campaign: ``python tests/campaign/campaign.py`` kills, starves and confuses the product, and prints a table.

Every fault is drawn from the seed. A command that was killed or failed is given again, and its results must be those of
an undisturbed one. Exit code 1 if anything failed; each failure is a line that says how to repeat it.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from campaign import inputs
from campaign.faults import Fault
from campaign.process import Ended, Started, run
from campaign.world import COMMANDS, make

# Of a run and a record: what differs from one time to the next.
_TIMES = re.compile(r'"(created|completed|seconds|images_per_second|checksum|log\.jsonl|commit)": ?[^,\n}]+')
_LEFT = re.compile(r"\..+|.*\.partial\.jsonl|rows\.jsonl|.*\.owner|run\.lock|checkpoints")

Draw = Callable[[random.Random, Ended, int], Fault]
"""A fault for a command, of which is known how it ends undisturbed, and the size of the largest file it writes."""


@dataclass
class Line:
    """A line of the table."""

    kind: str
    tried: int = 0
    failed: list[str] = field(default_factory=list)
    memory: float = 0.0
    seconds: float = 0.0

    def add(self, ended: Ended, problem: str, how: str) -> None:
        self.tried += 1
        self.memory, self.seconds = max(self.memory, ended.memory), self.seconds + ended.seconds
        if problem:
            self.failed.append(f"{self.kind}: {how}: {problem}")


class Campaign:
    """A world, a seed, and the lines of the table."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.world, self.work, self.seed = make(folder / "world"), folder / "work", seed
        self.lines: list[Line] = []
        os.environ["STEADYCLIP_CACHE"] = str(folder / "cache")
        self.whole = {name: self._undisturbed(name) for name in COMMANDS}

    def words(self, name: str) -> list[str]:
        return COMMANDS[name].words(self.world, self.work)

    def fresh(self, name: str) -> None:
        """An empty folder to write to; with the run that `evaluate` adds to."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if name == "evaluate":
            shutil.copytree(self.world / "run", self.work / "run", ignore=shutil.ignore_patterns("records"))

    def results(self, name: str) -> dict[str, str]:
        """File -> digest of its content, less times."""
        found = {}
        for pattern in COMMANDS[name].results:
            for file in sorted(self.work.glob(pattern)):
                if file.is_file() and not file.name.endswith(".lock"):
                    content = file.read_bytes()
                    if file.suffix in (".json", ".jsonl", ".html"):
                        content = _TIMES.sub("", content.decode()).encode()
                    found[str(file.relative_to(self.work))] = hashlib.sha256(content).hexdigest()[:12]
        return found

    def _undisturbed(self, name: str) -> tuple[Ended, dict[str, str], int]:
        self.fresh(name)
        ended = run(self.words(name), [self.work])
        if ended.code:
            raise SystemExit(f"{name} fails without any fault: {ended.error}")
        files = [file.stat().st_size for file in self.work.rglob("*") if file.is_file()]
        return ended, self.results(name), max(files)

    def again(self, name: str) -> str:
        """Give the command again after a fault; what is wrong then, or ""."""
        ended = run(self.words(name), [self.work])
        if ended.problem or ended.code:
            return f"again: {ended.problem or ended.error.strip()[-300:]}"
        results, whole = self.results(name), self.whole[name][1]
        if results != whole:
            names = [file for file in {**results, **whole} if results.get(file) != whole.get(file)]
            return f"other results than undisturbed: {', '.join(names[:4])}"
        left = [str(f.relative_to(self.work)) for f in self.work.rglob("*") if _LEFT.fullmatch(f.name)]
        return f"left behind: {', '.join(left[:4])}" if left else ""

    def disturb(self, kind: str, count: int, fault: Draw) -> None:
        """``count`` faults, spread over the commands; each command is given again afterwards."""
        line = Line(kind)
        for number in range(count):
            name = sorted(COMMANDS)[number % len(COMMANDS)]
            whole, _, largest = self.whole[name]
            made = fault(random.Random(f"{self.seed}/{kind}/{number}"), whole, largest)
            self.fresh(name)
            ended = run(self.words(name), [self.work], made)
            how = f"number {number}, {name}, {made.kind} at {made.at}"
            line.add(ended, ended.problem or self.again(name), how)
        self._told(line)

    def surround(self, kind: str, before: Callable[[], None] = lambda: None, fault: Fault | None = None) -> None:
        """Every command in odd surroundings: it must end well, or with one line."""
        line = Line(kind)
        for name in sorted(COMMANDS):
            self.fresh(name)
            ended = run(self.words(name), [self.work, Path(os.environ["STEADYCLIP_CACHE"])], fault, before=before)
            line.add(ended, ended.problem, name)
        self._told(line)

    def at_once(self, count: int) -> None:
        """Two processes with one folder: one does it, the other is told, or they share the work."""
        line = Line("two processes, one folder")
        for number in range(count):
            name = sorted(COMMANDS)[number % len(COMMANDS)]
            self.fresh(name)
            words, others = self.words(name), self.words(name)
            if name == "train" and number % 2:
                others = [*words, "--seed", "2"]
            both = [Started(words, [self.work]), Started(others, [self.work])]
            first, second = (process.end() for process in both)
            problem = first.problem or second.problem
            if not problem and first.code and second.code:
                problem = f"neither did it: {first.error.strip()[-150:]} | {second.error.strip()[-150:]}"
            if not problem and others == words:
                problem = self.again(name)
            line.add(first if first.memory > second.memory else second, problem, f"number {number}, {name}")
        self._told(line)

    def inputs(self, count: int) -> None:
        """Damaged inputs of every kind."""
        own = self.work.with_name("inputs")
        own.mkdir()
        for name, share, one in inputs.kinds(self.world, own):
            line, start = Line(f"damaged {name}"), time.monotonic()
            line.tried = max(10, round(share * count))
            _, line.failed, line.memory = inputs.tried(name, line.tried, one, self.seed)
            line.seconds = time.monotonic() - start
            self._told(line)

    def _told(self, line: Line) -> None:
        self.lines.append(line)
        print(row(line), flush=True)
        for failure in line.failed[:10]:
            print(f"  {failure}", flush=True)


def row(line: Line) -> str:
    return f"| {line.kind} | {line.tried:,} | {len(line.failed)} | {line.memory:,.0f} | {line.seconds:,.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=100)
    parser.add_argument("--read-errors", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--inputs", type=int, default=20_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="steadyclip-campaign-") as folder:
        campaign = Campaign(Path(folder), asked.seed)
        print("| kind | tried | failed | peak memory, MB | seconds |\n| --- | ---: | ---: | ---: | ---: |")
        campaign.inputs(asked.inputs)
        faults: dict[str, tuple[int, Draw]] = {
            "killed at a write": (asked.kills // 2, lambda rng, e, _: Fault("kill", rng.randint(1, e.writes))),
            "killed within a write": (asked.kills // 2, lambda rng, _, n: Fault("kill in", rng.randrange(n))),
            "disk full at a write": (asked.full_disks // 2, lambda rng, e, _: Fault("fail", rng.randint(1, e.writes))),
            "disk full within a write": (asked.full_disks // 2, lambda rng, _, n: Fault("fail in", rng.randrange(n))),
            "read error": (asked.read_errors, lambda rng, e, _: Fault("unreadable", rng.randint(1, max(1, e.reads)))),
        }  # fmt: skip
        for kind, (count, draw) in faults.items():
            campaign.disturb(kind, count, draw)
        campaign.at_once(asked.at_once)
        campaign.surround("read-only folder", fault=Fault("read-only", error=errno.EROFS))
        campaign.surround("no HOME", _no_home)
        campaign.surround("closed standard output", _closed)
        campaign.surround("full standard output", _full)
        campaign.surround("clock going backwards", _backwards)
    failed = sum(len(line.failed) for line in campaign.lines)
    print(f"\n{sum(line.tried for line in campaign.lines):,} tried, {failed} failed, seed {asked.seed}, "
          f"{(time.monotonic() - start) / 60:.0f} minutes")  # fmt: skip
    return 1 if failed else 0


def _no_home() -> None:
    import pwd

    def missing(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd.getpwuid = missing  # pyright: ignore[reportAttributeAccessIssue]
    os.environ.pop("HOME", None)
    os.environ.pop("STEADYCLIP_CACHE", None)


def _closed() -> None:
    os.close(1)
    sys.stdout = None  # pyright: ignore[reportAttributeAccessIssue]  (as Python starts then)


def _full() -> None:
    sys.stdout = open("/dev/full", "w")  # noqa: SIM115


def _backwards() -> None:
    """Each look at the clock is an hour before the last."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    time.time = earlier  # pyright: ignore[reportAttributeAccessIssue]
    time.time_ns = lambda: int(earlier() * 1e9)  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    sys.exit(main())
