"""Which tests the quick set leaves out: those of heavy.txt, those marked `heavy`, and repetitions (`one_of_each`)."""

from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
HEAVY = {line for line in (FOLDER / "heavy.txt").read_text().splitlines() if line and not line.startswith("#")}
FILES = pytest.StashKey[dict[str, tuple[int, int]]]()
LONG = 5.0
"""Seconds above which a test of the quick set is named at the end."""


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick, total, turn = Counter[str](), Counter[str](), Counter[str]()
    for item in items:
        file = item.path.relative_to(FOLDER).as_posix() if item.path.is_relative_to(FOLDER) else item.path.name
        function = f"{file}::{item.nodeid.split('::', 1)[-1].split('[')[0]}"
        if file in HEAVY or function in HEAVY or not _in_turn(item, turn):
            item.add_marker("heavy")
        total[file] += 1
        quick[file] += item.get_closest_marker("heavy") is None and item.get_closest_marker("slow") is None
    config.stash[FILES] = {file: (quick[file], total[file]) for file in total}


def _in_turn(item: pytest.Item, turn: Counter[str]) -> bool:
    """Of `@pytest.mark.one_of_each("family")`: whether this family's turn has come for the case of the others."""
    mark, call = item.get_closest_marker("one_of_each"), getattr(item, "callspec", None)
    if mark is None or call is None:
        return True
    (name,) = mark.args
    function = item.nodeid.split("[")[0]
    case = f"{function}[{sorted((k, str(v)) for k, v in call.params.items() if k != name)}]"
    if case not in turn:
        turn[case] = turn[function]
        turn[function] += 1
    values = next(list(m.args[1]) for m in item.iter_markers("parametrize") if m.args[0] == name)
    return values.index(call.params[name]) == turn[case] % len(values)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if "not heavy" not in config.option.markexpr:
        return
    seconds = Counter[str]()
    for report in terminalreporter.stats.get("passed", []):
        seconds[report.nodeid] += report.duration
    for test, taken in seconds.most_common():
        if taken > LONG:
            terminalreporter.write_line(f"{taken:.0f} s: {test}. If it is always so long, it belongs in heavy.txt.")
    terminalreporter.write_line("This was the quick set. All tests: make test-all")
