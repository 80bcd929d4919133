"""`steadyclip completion`: what the Tab key then proposes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from steadyclip.cli import COMMANDS, main

pytestmark = pytest.mark.newest  # the scripts are tyro's

ASK = """
source "$0"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); "$function"; echo "${COMPREPLY[*]}"; }
function=$(complete -p steadyclip | sed 's/.*-F \\([^ ]*\\).*/\\1/')
ask steadyclip ""
ask steadyclip tune photos --sh
ask steadyclip runs co
ask steadyclip bench base-to-new --precision ""
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash is installed")
def test_bash_completes_commands_actions_options_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    done = subprocess.run(["bash", "-c", ASK, tmp_path / "script"], capture_output=True, text=True, check=True)
    commands, *others = done.stdout.splitlines()
    assert {*COMMANDS} <= {*commands.split()}
    assert others == ["--shots", "compare", "auto fp32 bf16"]
    assert not done.stderr


def test_zsh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef steadyclip")


def test_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err
