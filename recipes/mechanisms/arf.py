"""ARF's mechanism: how far the features of images and texts move that were never trained on, with and without anchors.

    python recipes/mechanisms/arf.py [--out runs/laboratory/robust-lab-robust-travel]

Trains nothing: it reads the records of recipes/arf.sh (robust fine-tuning on lab-robust-travel), which compare the
features of its test images and of their prompts with those of the frozen model. Writes results/arf-drift.csv and
docs/methods/arf-drift.svg; what is drawn are the five data sets of other classes.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from steadyclip.evaluation.records import Record
from training import BLUE, ORANGE, arguments, figure, write_csv

DATA = "lab-robust-travel"
ROWS = {
    "full": "full",
    "flyp": "flyp",
    "no anchors": "arf without anchors",
    "captions": "arf, captions alone",
    "retrieved": "arf, retrieved pairs alone",
    "eight": "arf, eight for each image",
    "random": "arf, random pairs alone",
    "both": "arf",
}
TOWERS = {"image": BLUE, "text": ORANGE}


def main() -> None:
    options = arguments(__doc__, out=f"runs/laboratory/robust-{DATA}")
    lines = sorted(
        (row, record.seed, record.data.name, record.role, tower, moved.cosine, moved.cka)
        for path in sorted(options.out.glob(f"*-{DATA}-all-all-seed*/records/*.json"))
        if (record := Record.read(path)).drift and record.wise_alpha is None and (row := which(record))
        for tower, moved in (("image", record.drift.image), ("text", record.drift.text))
    )
    if not lines:
        raise SystemExit(f"no records of {DATA} in {options.out}: run recipes/arf.sh first.")
    write_csv("arf-drift", ("row", "seed", "test", "role", "tower", "cosine", "cka"), lines)
    rows = [row for row in ROWS if any(line[0] == row for line in lines)]
    with figure("arf-drift", 7.2, 0.4 * len(rows) + 1) as drawn:
        axis = drawn.subplots()
        for place, (tower, color) in enumerate(TOWERS.items()):
            moved = [
                fmean(1 - line[5] for line in lines if line[0] == row and line[3] == "transfer" and line[4] == tower)
                for row in rows
            ]
            axis.barh([i + 0.4 * place - 0.2 for i in range(len(rows))], moved, 0.36, color=color, label=tower)
        axis.set_yticks(range(len(rows)), [ROWS[row] for row in rows])
        axis.invert_yaxis()
        axis.set_xlabel("1 \N{MINUS SIGN} cosine to the frozen features, mean over images or prompts of other classes")
        axis.legend()


def which(record: Record) -> str:
    """The row in a word; empty for others."""
    name, knobs = record.method.name, record.method.knobs
    if name != "arf":
        return name if name in ROWS else ""
    if not knobs["l_c"] and not knobs["l_r"]:
        return "no anchors"
    if not knobs["l_r"]:
        return "captions"
    kind = {"random": "random", "nearest-8": "eight"}.get(Path(str(knobs["anchors"])).stem, "retrieved")
    return kind if not knobs["l_c"] else "both" * (kind == "retrieved")


if __name__ == "__main__":
    main()
