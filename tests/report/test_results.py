"""Records as CSV lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np

from steadyclip.evaluation.records import Record
from steadyclip.report.results import FIELDS, results


def test_a_line_for_each_evaluation_whatever_their_order(make: Callable[..., Record]) -> None:
    right = np.arange(40) < 30
    records = [
        make("lora", "new", seed=2, shots=16, name="pets", domain=None, correct=right),
        make("lora", "base", 0.5, seed=2, shots=None, name="pets", domain="photos", images=10, role="id"),
        make("zero-shot", "all", 0.25, name="pets", domain=None, images=8),
        make("linear-probe", "new", None, seed=1, shots=16, name="pets", domain=None, images=8),
    ]
    text = results(records)
    assert results(reversed(records)) == text == results([*records, records[0]])
    assert text.splitlines()[0] == ",".join(FIELDS)
    lines = {line["method"] + line["test"]: line for line in csv.DictReader(io.StringIO(text))}
    assert len(lines) == 4
    new = lines["lorapets new"]
    assert [new[k] for k in ("data", "shots", "seed", "top1", "images")] == ["icons", "16", "2", "0.750000", "40"]
    assert [lines["lorapets base photos"][k] for k in ("shots", "role", "low", "high")] == [
        "all",
        "id",
        "0.470000",
        "0.530000",
    ]
    assert [lines["zero-shotpets"][k] for k in ("data", "classes", "shots", "seed", "top1")] == [
        "pets",
        "",
        "",
        "",
        "0.250000",
    ]
    assert [lines["linear-probepets new"][k] for k in ("top1", "low", "high", "images")] == ["", "", "", "8"]
    other = make("lora", "new", seed=2, shots=16, name="pets", domain=None, correct=~right | right)
    assert results([other]).splitlines()[1].split(",")[-1] != new["record"]
