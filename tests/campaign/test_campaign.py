"""The campaign finds what it looks for: hangs, what is left running; and it goes on where it was stopped."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from campaign import damage, process
from campaign.ledger import Ledger, Part
from campaign.process import run

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="watches processes through /proc")


def _leaves_one_running() -> None:
    if os.fork() == 0:
        time.sleep(1000)


def _computes() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (lambda: time.sleep(1000), "waits for nothing since 1 s"),
        (_computes, "not done after 1 s of computing"),
        (_leaves_one_running, "left 1 processes running"),
        (lambda: None, ""),
    ],
)
def test_a_process_that_hangs_is_found_and_ended(before, problem: str, monkeypatch) -> None:
    monkeypatch.setattr(process, "PATIENCE", 1)
    monkeypatch.setattr(process.Started.end, "__defaults__", (1,))
    monkeypatch.setattr(process.Watch.__init__, "__defaults__", (1,))
    assert run(["--version"], [], before=before).problem == problem


def test_a_traceback_and_an_error_without_a_reason_are_failures() -> None:
    def ended(code: int, error: str) -> str:
        return process.Ended(code, "", error, 0.0, 0.0).problem

    assert ended(1, "Traceback (most recent call last):\nKeyError: 'a'\n") == "traceback: KeyError: 'a'"
    assert ended(1, "something\n").startswith("failed without one line")
    assert ended(-11, "") == "exit code -11"
    assert ended(1, "error: a.png: broken image.\n") == ended(0, "") == ""


def test_damage_depends_on_the_seed_alone() -> None:
    content, value = bytes(range(256)), {"a": [1, 2.5, "x"], "b": {"c": None}}
    for function, whole in (
        (damage.of_bytes, content),
        (damage.of_json, value),
        (damage.of_words, ["train", "--out", "x"]),
    ):
        first, second = ([function(whole, random.Random(i)) for i in range(200)] for _ in range(2))
        assert first == second
        assert len(set(map(str, first))) > 60
    assert value == {"a": [1, 2.5, "x"], "b": {"c": None}}


def test_a_stopped_campaign_goes_on(tmp_path: Path, capsys) -> None:
    ledger = Ledger(tmp_path / "seed-1.jsonl")
    ledger.add(Part("killed", 0, 2, memory=10, seconds=1))
    ledger.add(Part("killed", 4, 2, ["number 5, train: traceback"], memory=30, seconds=1))
    with ledger.path.open("a") as file:
        file.write('{"kind": "killed", "fir')  # the campaign itself was killed
    ledger = Ledger(ledger.path)
    assert list(ledger.left("killed", 7, 2)) == [(2, 2), (6, 1)]
    ledger.add(Part("killed", 2, 2))
    assert list(Ledger(ledger.path).left("killed", 6, 2)) == []
    assert "| killed | 6 | 1 | 30 | 2 |" in Ledger(ledger.path).table()
    assert capsys.readouterr().out == "killed: number 5, train: traceback\n"


@pytest.mark.slow
def test_a_small_campaign_finds_nothing(tmp_path: Path) -> None:
    few = [
        "--kills=24", "--full-disks=24", "--read-errors=12", "--at-once=12", "--inputs=400", "--requests=300",
    ]  # fmt: skip
    program = Path(__file__).with_name("campaign.py")
    done = subprocess.run([sys.executable, program, "--out", tmp_path, *few], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
