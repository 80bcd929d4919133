"""What icons-tiny knows without training: every number of its card, from one command.

    python benchmarks/icons_tiny.py [MODEL]

Needs steadyclip-lab. Top-1 and 95 % bootstrap interval over test images, one template; then how it does by second
names ("plane" for airplane), how long it takes to load, and how large its files are.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from steadyclip import evaluate, get_method, load, load_data
from steadyclip.data import ImageSet
from steadyclip.models import DualEncoder
from steadyclip.models.loading import checkpoint_folder
from steadyclip_lab.icons.duplicates import SAME, same
from steadyclip_lab.icons.packs import Drawing, drawings
from steadyclip_lab.icons.render import random_look, render
from steadyclip_lab.icons.samples import plan
from steadyclip_lab.icons.tables import read_table

TEMPLATE = "an icon of a {}."
TOPICS = ("animals", "food", "transport", "nature", "objects", "symbols")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="icons-tiny")
    name = parser.parse_args().model
    model = load(name)
    print("| data | classes | images | top-1 | 95 % interval |\n| --- | ---: | ---: | ---: | --- |")
    for label, images in data_sets():
        accuracy, (low, high) = score(model, images)
        print(
            f"| {label} | {len(images.classes)} | {len(images)} | {accuracy:.1f} | {low:.1f} to {high:.1f} |",
            flush=True,
        )
    print()
    for data in ("icon-concepts", "icons"):
        first, second, classes = by_second_names(model, data)
        print(
            f"second names of {data}: {second:.1f} % by them, {first:.1f} % by the first names, "
            f"{100 * second / first:.0f} % kept ({classes} classes have one)"
        )
    print(
        f"pretraining pairs: {len(plan('pretrain'))}; left out as the same drawing (correlation {SAME}): {len(same())}"
    )
    folder = checkpoint_folder(name)
    print(f"files: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB")
    print(f"CLIPModel.from_pretrained: {seconds_to_load(folder):.2f} s, imports not counted, median of 5 processes")


def data_sets() -> Iterator[tuple[str, ImageSet]]:
    """Label and test images of everything in the card."""
    icons = load_data("icons")
    for domain in icons.domains:
        yield f"icons, {domain}", icons.test_set(domain=domain)
    for data in ("icon-concepts", *(f"icon-{topic}" for topic in TOPICS)):
        yield data, load_data(data).test_set()
    yield "all names of phosphor, regular", all_names()


def score(model: DualEncoder, images: ImageSet) -> tuple[float, tuple[float, float]]:
    """Top-1 and its interval, in percent."""
    metrics = evaluate(model, get_method("zero-shot"), images, templates=[TEMPLATE]).metrics
    assert metrics is not None
    low, high = metrics.interval95
    return 100 * metrics.top1, (100 * low, 100 * high)


def by_second_names(model: DualEncoder, data: str) -> tuple[float, float, int]:
    """Top-1 over the images in lines, of every split, of classes with a second name, by first and by second names; and
    how many classes."""
    also = {one.name: one.also for one in read_table(data) if one.also}
    splits = load_data(data).splits
    images, _ = splits["train"].joined(splits["val"], splits["test"]).by_domain(["lines"])
    images = images.subset(i for i, label in enumerate(images.labels) if images.classes[label] in also)
    renamed = dataclasses.replace(images, classes=tuple(also.get(name, name) for name in images.classes))
    return score(model, images)[0], score(model, renamed)[0], len(also)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Drawings as a store of images, each in a look of its own."""

    of_key: dict[str, Drawing]

    def read(self, key: str) -> bytes:
        return render(self.of_key[key], random_look(f"names/{key}"))


def all_names() -> ImageSet:
    """Every phosphor drawing in regular strokes, among all their names."""
    chosen = {one.key: one for one in drawings("phosphor") if one.style == "regular"}
    none = (None,) * len(chosen)
    return ImageSet(
        name="phosphor-names", classes=tuple(one.text for one in chosen.values()), templates=(TEMPLATE,),
        keys=tuple(chosen), labels=tuple(range(len(chosen))), domains=none, captions=none, store=Rendered(chosen),
    )  # fmt: skip


def seconds_to_load(folder: Path) -> float:
    """Of a fresh process each time, as the second load in a process would be warm."""
    code = (
        "import time, transformers; from transformers import CLIPModel; began = time.perf_counter();"
        f"CLIPModel.from_pretrained({str(folder)!r}); print(time.perf_counter() - began)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"({time.perf_counter() - started:.0f} s)")
