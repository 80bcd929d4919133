"""Which method can be exported to which target, for every family of models, and how exactly it is read back.

    python benchmarks/export_matrix.py                       # all that can be built here; hours on two busy cores
    python benchmarks/export_matrix.py --methods lora dra --families clip --targets hf onnx

Trains every registered method for three steps on a tiny random model of every family, exports it, and notes what the
reader of the target said of it. Each cell is a line of ``--out`` as soon as it is known, and what is there is not done
again. Ends with the table of docs/deploy.md. Of the graphs for onnxruntime it writes the classifier only: the towers
are those of the model. ``make test-open-clip`` makes an environment with open_clip.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from steadyclip.core.errors import SteadyClipError
from steadyclip.deploy import export
from steadyclip.deploy.opening import Opened
from steadyclip.methods import get_method, methods
from steadyclip.models.testing import FAMILIES, installed_families, tiny
from steadyclip.testing import NAMES, TEMPLATES, train_a_little

TARGETS = ("hf", "open_clip", "onnx")
FIELDS = ("method", "family", "target", "outcome", "features", "logits", "names", "images", "reason")
IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(methods()))
    parser.add_argument("--families", nargs="+", default=installed_families(), choices=FAMILIES)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--out", type=Path, default=Path("runs/export-matrix.csv"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = read(options.out)
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for target in options.targets:
            for name in options.methods:
                for family in options.families:
                    if (name, family, target) in done:
                        continue
                    done[name, family, target] = row = cell(name, family, target)
                    writer.writerow(row)
                    file.flush()
                    print(*(value for value in row.values() if value != ""), sep="  ", flush=True)
    print(table(done))


def read(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {(row["method"], row["family"], row["target"]): row for row in csv.DictReader(file)}


def cell(name: str, family: str, target: str) -> dict[str, str]:
    """Train, export, and what came of it: "exact", "refused" by what the method or the model is, or "failed"."""
    row = dict.fromkeys(FIELDS, "") | {"method": name, "family": family, "target": target}
    model, method = tiny(family), get_method(name)
    train_a_little(method, model)
    model.eval()
    opened = Opened("matrix", model, method, "0" * 16, NAMES, TEMPLATES)
    with tempfile.TemporaryDirectory() as folder:
        try:
            only = "classifier" if target == "onnx" else None
            info = export(opened, target, Path(folder) / "export", check=IMAGES, only=only)
        except SteadyClipError as error:
            refused = "cannot hold" in str(error) or "take --to" in str(error)
            return row | {"outcome": "refused" if refused else "failed", "reason": str(error)}
    found = next(iter(info.checks.values()))
    if not found.get("checked", True):
        return row | {"outcome": "written", "reason": "not checked: open_clip is not installed"}
    return row | {
        "outcome": "exact", "features": f"{found['largest_feature_difference']:.1e}",
        "logits": f"{found['largest_logit_difference']:.1e}", "names": found["equal_first_names"],
        "images": found["images"],
    }  # fmt: skip


def table(rows: dict[tuple[str, str, str], dict[str, str]]) -> str:
    """Markdown: a line for each method; of the families that a target takes, the largest differences of logits."""
    lines = [f"| method | {' | '.join(TARGETS)} |", "| --- |" + " --- |" * len(TARGETS)]
    for name in sorted({name for name, _, _ in rows}):
        cells = []
        for target in TARGETS:
            own = {family: row for (n, family, t), row in rows.items() if (n, t) == (name, target)}
            bad = [family for family, row in own.items() if row["outcome"] == "failed"]
            exact = [row for row in own.values() if row["outcome"] == "exact"]
            equal, images = (sum(int(row[key]) for row in exact) for key in ("names", "images"))
            shown = f"{max(float(row['logits']) for row in exact):.0e}, {equal} of {images}" if exact else "no"
            cells.append(f"{shown}; failed on {', '.join(bad)}" if bad else shown if own else "")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
