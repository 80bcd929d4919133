"""The script for a GPU runs, on a processor and with sizes that say nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import steadyclip

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.newest
def test_every_row_of_the_script_for_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--tiny", "--workers", "0", "--out", out],
        env={**os.environ, "PYTHONPATH": str(Path(steadyclip.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(out.read_text())
    assert (found["precision"], found["tiny"]) == ("fp32", True)
    assert [row["row"] for row in found["rows"]] == [
        "full", "lora", "dra", "orthcr", "fit", "features", "coop", "classes", "parts",
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["this"] / row["other"]), row
        assert row["this"] > 0
    assert found["rows"][-1]["ratio"] <= 1.2  # memory does not depend on the machine
