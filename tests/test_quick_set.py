"""The quick set: no file is left out of it as a whole, and its list of exceptions names tests that exist."""

from pathlib import Path

import pytest

from quick import FILES, FOLDER, HEAVY


def test_every_file_has_a_quick_test(request: pytest.FixtureRequest) -> None:
    files = request.config.stash[FILES]
    # Seen are the files of this run: all of them in `make test`, this one alone when it is run by hand.
    missing = [file for file, (quick, total) in files.items() if not quick and total > 1]  # a single test may be heavy
    assert not missing, f"only heavy tests in {', '.join(missing)}: leave one quick, on little data"


def test_the_list_of_heavy_tests_is_up_to_date() -> None:
    for entry in sorted(HEAVY):
        file, _, function = entry.partition("::")
        path: Path = FOLDER / file
        assert path.is_file(), f"heavy.txt names {file}, which does not exist"
        name = function.split("::")[-1]
        assert not function or f"def {name}(" in path.read_text(), f"heavy.txt names {entry}, which does not exist"
