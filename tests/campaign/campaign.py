"""The campaign: ``python tests/campaign/campaign.py`` kills, starves and confuses the product, and prints a table.

Every fault is drawn from the seed. A command that was killed or failed is given again, and its results must be those of
an undisturbed one. What was done is kept in ``--out``: the same command goes on where it was stopped, and ends with the
table. Exit code 1 if anything failed; each failure is a line that says how to repeat it.
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
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from campaign import inputs, surroundings
from campaign.faults import Fault
from campaign.ledger import Ledger, Part
from campaign.process import Ended, Started, run
from campaign.visitors import Visitor
from campaign.world import COMMANDS, make, shrink

# Of a run and a record: what differs from one time to the next.
_TIMES = re.compile(r'"(created|completed|seconds|images_per_second|checksum|log\.jsonl|commit)": ?[^,\n}]+')
_LEFT = re.compile(r"\..+|.*\.partial\.jsonl|rows\.jsonl|.*\.owner|run\.lock|checkpoints")
_MOST_MEMORY = 1500
"""MB that a command of the campaign may take: its models are tiny, so that most of it are the libraries."""

Draw = Callable[[random.Random, Ended, int], Fault]
"""A fault for a command, of which is known how it ends undisturbed, and the size of the largest file it writes."""

DISTURBED: dict[str, Draw] = {
    "killed at a write": lambda rng, ended, _: Fault("kill", rng.randint(1, ended.writes)),
    "killed within a write": lambda rng, _, largest: Fault("kill in", rng.randrange(largest)),
    "disk full at a write": lambda rng, ended, _: Fault("fail", rng.randint(1, ended.writes)),
    "disk full within a write": lambda rng, _, largest: Fault("fail in", rng.randrange(largest)),
    "read error": lambda rng, ended, _: Fault("unreadable", rng.randint(1, max(1, ended.reads))),
}
SURROUNDED: dict[str, tuple[Callable[[], None], Fault | None]] = {
    "read-only folder": (lambda: None, Fault("read-only", error=errno.EROFS)),
    "no HOME": (surroundings.no_home, None),
    "closed standard output": (surroundings.closed, None),
    "full standard output": (surroundings.full, None),
    "clock going backwards": (surroundings.backwards, None),
}


class Campaign:
    """A world below ``folder``, a seed, and what was found so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.work = folder.resolve(), seed, folder.resolve() / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ["STEADYCLIP_CACHE"] = str(self.folder / "cache")
        self.world = self.folder / "world"
        shrink()
        made = self.folder / "world-is-made"
        if not made.is_file():
            shutil.rmtree(self.world, ignore_errors=True)
            make(self.world)
            made.touch()
        self.ledger = Ledger(self.folder / f"seed-{seed}.jsonl")
        os.environ["STEADYCLIP_CACHE"] = str(self.work / "cache")
        self._whole: dict[str, tuple[Ended, dict[str, str], int]] = {}

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

    def whole(self, name: str) -> tuple[Ended, dict[str, str], int]:
        """How a command ends undisturbed, its results, and the size of the largest file that it writes."""
        if name not in self._whole:
            self.fresh(name)
            ended = run(self.words(name), [self.work])
            if ended.code:
                raise SystemExit(f"{name} fails without any fault: {ended.error}")
            results = self.results(name)
            if not results:
                raise SystemExit(f"{name} wrote none of what it is known for: {COMMANDS[name].results}")
            files = [file.stat().st_size for file in self.work.rglob("*") if file.is_file()]
            self._whole[name] = ended, results, max(files)
        return self._whole[name]

    def again(self, name: str) -> str:
        """Give the command again after a fault; what is wrong then, or ""."""
        whole = self._whole[name][1]
        ended = run(self.words(name), [self.work])
        if ended.problem or ended.code:
            return f"again: {ended.problem or ended.error.strip()[-300:]}"
        results = self.results(name)
        if results != whole:
            names = [file for file in {**results, **whole} if results.get(file) != whole.get(file)]
            return f"other results than undisturbed: {', '.join(names[:4])}"
        left = [str(f.relative_to(self.work)) for f in self.work.rglob("*") if _LEFT.fullmatch(f.name)]
        return f"left behind: {', '.join(left[:4])}" if left else ""

    def disturb(self, kind: str, count: int) -> None:
        """``count`` faults, spread over the commands; each command is given again afterwards."""
        for number, _ in self.ledger.left(kind, count, 1):
            name = sorted(COMMANDS)[number % len(COMMANDS)]
            undisturbed, _, largest = self.whole(name)
            made = DISTURBED[kind](random.Random(f"{self.seed}/{kind}/{number}"), undisturbed, largest)
            self.fresh(name)
            ended = run(self.words(name), [self.work], made)
            how = f"number {number}, {name}, {made.kind} at {made.at}"
            self._add(kind, number, ended, ended.problem or self.again(name), how)

    def surround(self, kind: str) -> None:
        """Every command in odd surroundings: it must end well, or with one line."""
        before, fault = SURROUNDED[kind]
        for number, _ in self.ledger.left(kind, len(COMMANDS), 1):
            name = sorted(COMMANDS)[number]
            self.fresh(name)
            ended = run(self.words(name), [self.work], fault, before=before)
            self._add(kind, number, ended, ended.problem, name)

    def at_once(self, count: int) -> None:
        """Two processes with one folder: one does it, the other is told, or they share the work."""
        kind = "two processes, one folder"
        for number, _ in self.ledger.left(kind, count, 1):
            name = sorted(COMMANDS)[number % len(COMMANDS)]
            self.whole(name)
            self.fresh(name)
            words, others = self.words(name), self.words(name)
            if name == "train" and number // len(COMMANDS) % 2:
                others = [*words, "--seed", "2"]
            both = [Started(words, [self.work]), Started(others, [self.work])]
            first, second = (process.end() for process in both)
            problem = first.problem or second.problem
            if not problem and first.code and second.code:
                problem = f"neither did it: {first.error.strip()[-150:]} | {second.error.strip()[-150:]}"
            if not problem and others == words:
                problem = self.again(name)
            self._add(kind, number, first if first.memory > second.memory else second, problem, name)

    def inputs(self, count: int) -> None:
        """Damaged inputs of every kind."""
        own = self.folder / "inputs"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        for name, share, one in inputs.kinds(self.world, own):
            kind, tries = f"damaged {name}", max(10, round(share * count))
            for first, size in self.ledger.left(kind, tries, 500):
                failed, memory, seconds = inputs.tried(name, range(first, first + size), one, self.seed)
                self.ledger.add(Part(kind, first, size, failed, memory, seconds))

    def requests(self, count: int) -> None:
        """Malformed requests to `serve`."""
        kind = "malformed requests"
        for first, size in self.ledger.left(kind, count, 1000):
            with Visitor(self.world) as visitor:
                failed = visitor.send(range(first, first + size), self.seed)
            failed += visitor.problems
            self.ledger.add(Part(kind, first, size, failed, visitor.ended.memory, visitor.ended.seconds))

    def _add(self, kind: str, number: int, ended: Ended, problem: str, how: str) -> None:
        if not problem and ended.memory > _MOST_MEMORY:
            problem = f"took {ended.memory:,.0f} MB"
        failed = [f"{how}: {problem}"] if problem else []
        self.ledger.add(Part(kind, number, 1, failed, ended.memory, ended.seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"), help="folder to work in; kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=100)
    parser.add_argument("--read-errors", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--table", action="store_true", help="only print the table of what was done so far")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.table:
        carry_out(asked)
    ledger = Ledger(asked.out / f"seed-{asked.seed}.jsonl")
    codes = ", ".join(dict.fromkeys(part.code or "an installed package" for part in ledger.parts))
    tried, seconds = sum(part.tried for part in ledger.parts), sum(part.seconds for part in ledger.parts)
    print(f"\n{ledger.table()}\n")
    print(f"{tried:,} tried, {ledger.failed} failed; seed {asked.seed}; {seconds / 60:.0f} minutes; code: {codes}")
    return 1 if ledger.failed else 0


def carry_out(asked: argparse.Namespace) -> None:
    """Everything that was asked for and is not done yet."""
    campaign = Campaign(asked.out, asked.seed)
    campaign.inputs(asked.inputs)
    campaign.requests(asked.requests)
    counts = {"killed": asked.kills // 2, "disk": asked.full_disks // 2, "read": asked.read_errors}
    for kind in DISTURBED:
        campaign.disturb(kind, counts[kind.split()[0]])
    campaign.at_once(asked.at_once)
    for kind in SURROUNDED:
        campaign.surround(kind)


if __name__ == "__main__":
    sys.exit(main())
