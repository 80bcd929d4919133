"""``python -m steadyclip_lab.drawings.making PACKAGE OUT``: everything that comes from ``@iconify/json``, made anew.

- the shelf (``shelf.FILES``): the drawings that the data sets use; the pool (``shelf.POOL``): some that pretrain; the
  table of credits;
- ``OUT/pretraining.tsv.xz``: which drawings pretrain, set, name and hash, without the pictures;
- ``OUT/pairs.parquet`` and ``OUT/held.parquet``: the pretraining half as image-text pairs, and the teams that were
  held out of it.

``lab/recipes/drawings.sh`` fetches the package and calls this.
"""

from __future__ import annotations

import argparse
import lzma
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip_lab.drawings.captions import caption
from steadyclip_lab.drawings.equal import SAME, all_rendered, equals
from steadyclip_lab.drawings.lines import line_layer
from steadyclip_lab.drawings.sets import DOWNSTREAM, TRAIN, Drawing, Package, capped
from steadyclip_lab.drawings.shelf import FOLDER, POOL, write_drawings, write_shelf
from steadyclip_lab.suite.plan import STRANGERS, read_table

HELD_OUT = ("iconoir", "uil", "uim", "uis", "uit", "streamline-emojis")
"""Sets that choose between states of the model, and are not trained on: two teams of lines and one of emoji."""
RELATIVE = 1 / 3
"""A set of which more than this share equals downstream drawings is left out whole."""
_CREDITS = """# Credits

The drawings in this folder come from these icon sets, taken from the npm package `@iconify/json`. They are changed only
in how they are shown; `openmoji.jsonl.xz` also holds the line layers of OpenMoji's drawings alone, under the same
license. Logos are trademarks of their owners; they stand here as images to be recognized.
"""
_SEEN = """# What icons-small has seen

The drawings that it was pretrained on come from these sets of the npm package `@iconify/json`, by other teams than
those of the laboratory. They are not shipped, but for one in sixteen (`lab-pool`).
"""
SEEN = Path(__file__).parents[1] / "weights" / "icons-small" / "DATA.md"
THINGS = ("objects", "food", "people", "faces", "travel")
"""The tables whose classes are no brands."""


def main() -> None:
    """Makes all files and prints what was counted."""
    parser = argparse.ArgumentParser(description="Make the shipped drawings and the pretraining pairs.")
    parser.add_argument("package", type=Path, help="the unpacked npm package @iconify/json")
    parser.add_argument("out", type=Path, help="folder for the pretraining pairs and their list")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="worker processes")
    args = parser.parse_args()
    try:
        make(Package(args.package), args.out, args.workers)
    except SteadyClipError as error:
        parser.exit(1, f"{error}\n")


def make(package: Package, out: Path, workers: int) -> None:
    """See the module.

    Raises:
        DataError: another version of the package, or a set that has vanished.
    """
    out.mkdir(parents=True, exist_ok=True)
    downstream = _drawn([one for name in DOWNSTREAM for one in _with_lines(package.drawings(name))], workers)
    prints_DP = np.stack([print_ for _, _, print_ in downstream])
    trains_D = np.array([one.team in TRAIN for one, _, _ in downstream])
    _, like_train = equals(prints_DP[~trains_D], prints_DP[trains_D])
    test = [one for (one, _, _), trains in zip(downstream, trains_D, strict=True) if not trains]
    equal = {one.key for one, how_like in zip(test, like_train, strict=True) if how_like >= SAME}
    print(f"test drawings that equal one of a training team, left out: {len(equal)} of {len(test)}")
    _print_counts(Counter(one.set for one in test if one.key in equal))
    shelf = [one for one, _, _ in downstream if one.key not in equal and _is_used(one)]
    names = package.pretraining_sets()
    pairs = _drawn([one for name in names for one in capped(package.drawings(name))], workers)
    _, like_D = equals(np.stack([print_ for _, _, print_ in pairs]), prints_DP)
    total = Counter(one.set for one, _, _ in pairs)
    same = Counter(one.set for (one, _, _), how_like in zip(pairs, like_D, strict=True) if how_like >= SAME)
    relatives = {name for name in names if same[name] > RELATIVE * total[name]}
    print(f"pretraining drawings that equal a downstream one, left out: {sum(same.values())} of {len(pairs)}")
    _print_counts(same)
    print(f"sets of which more than a third is equal, left out whole: {', '.join(sorted(relatives))}")
    kept = [
        (one, png)
        for (one, png, _), how_like in zip(pairs, like_D, strict=True)
        if how_like < SAME and one.set not in relatives
    ]
    trained = [(one, png) for one, png in kept if one.set not in HELD_OUT]
    _write_pairs(out / "pairs.parquet", trained)
    _write_pairs(out / "held.parquet", [(one, png) for one, png in kept if one.set in HELD_OUT])
    pool = [one for one, _ in trained if one.digest[0] == "0"]
    for path in (*write_shelf(shelf), write_drawings(pool, FOLDER / POOL)):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    (FOLDER / "ATTRIBUTION.md").write_text(_CREDITS + credit(package, [*shelf, *pool]), encoding="utf-8")
    SEEN.write_text(_SEEN + credit(package, [one for one, _ in trained]), encoding="utf-8")
    lines = "".join(f"{one.set}\t{one.icon}\t{one.digest}\n" for one, _ in trained)
    (out / "pretraining.tsv.xz").write_bytes(lzma.compress(lines.encode(), preset=9))
    sets, texts = {one.set for one, _ in trained}, {one.text for one, _ in trained}
    print(f"pretraining: {len(trained)} drawings of {len(sets)} sets, {len(texts)} distinct names")


def credit(package: Package, drawings: Iterable[Drawing]) -> str:
    """Tables of who drew them, under which license, by the sets' own metadata: set by set, and by license."""
    about, counts = package.about(), Counter(one.set for one in drawings)
    licenses: dict[str, list[int]] = {}
    for name, count in counts.items():
        licenses.setdefault(about[name]["license"]["title"], []).append(count)
    rows = ["\n| license | sets | drawings |\n| --- | ---: | ---: |\n"]
    for title, found in sorted(licenses.items(), key=lambda one: -sum(one[1])):
        rows.append(f"| {title} | {len(found)} | {sum(found):,} |\n")
    rows.append("\n| set | drawings | author | license |\n| --- | ---: | --- | --- |\n")
    for name in sorted(counts):
        author, license_ = about[name]["author"], about[name]["license"]
        rows.append(
            f"| {about[name]['name']} (`{name}`) | {counts[name]} | [{author['name']}]({author.get('url', '')}) | "
            f"[{license_['title']}]({license_.get('url', '')}) |\n"
        )
    return "".join(rows)


def _with_lines(drawings: Iterable[Drawing]) -> Iterable[Drawing]:
    for one in drawings:
        yield one
        if one.team == "openmoji" and (lines := line_layer(one)):
            yield lines


def _is_used(drawing: Drawing) -> bool:
    """Some class of some data set has the drawing, or clutter does."""
    if drawing.name in _used_names(drawing.is_brand):
        return True
    # one in eight by its hash is enough for clutter
    return (
        not drawing.is_brand and any(drawing.set in sets for sets in STRANGERS.values()) and drawing.digest[0] in "01"
    )


@cache
def _used_names(brands: bool) -> frozenset[str]:
    """Names of the drawings of all classes that are brands, or of all that are not."""
    tables = ("logos",) if brands else THINGS
    return frozenset(name for table in tables for names in read_table(table).values() for name in names)


def _drawn(drawings: Sequence[Drawing], workers: int) -> list[tuple[Drawing, bytes, np.ndarray]]:
    """With PNG and print; what cannot be drawn, or shows nothing, is counted and left out."""
    found, failed, empty = [], 0, 0
    for one, (png, print_) in zip(drawings, all_rendered(drawings, workers), strict=True):
        if png is None or print_ is None:
            failed, empty = failed + (png is None), empty + (png is not None)
        else:
            found.append((one, png, print_))
    print(f"{len(found)} drawings; {failed} cannot be drawn, {empty} show nothing")
    if not found:
        raise DataError("none of the drawings can be drawn.")
    return found


def _print_counts(counts: Counter[str]) -> None:
    print("  " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))


def _write_pairs(path: Path, pairs: Sequence[tuple[Drawing, bytes]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = {
        "image": pa.array([png for _, png in pairs], pa.binary()),
        "text": [one.text for one, _ in pairs],
        "caption": [caption(one) for one, _ in pairs],
        "set": [one.set for one, _ in pairs],
        "icon": [one.icon for one, _ in pairs],
    }
    parquet.write_table(pa.table(columns), path, compression="none")
    print(f"{path}: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
