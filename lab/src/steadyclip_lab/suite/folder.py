"""A built-in data set as files: what a folder of one's own looks like."""

from __future__ import annotations

from pathlib import Path

from steadyclip.core.errors import DataError


def write_folder(out: Path, data_set: str, classes: int | None = None) -> tuple[int, int]:
    """Write the images as ``out/class/number.png``, without their split.

    Args:
        out: a folder that is not there yet, or empty.
        data_set: a built-in data set.
        classes: how many of its classes, the first ones; None takes all.

    Returns:
        The numbers of images and of classes.

    Raises:
        DataError: ``out`` holds something, or cannot be written.
    """
    from steadyclip.data import load_data

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already: name a new folder, so that images of two data sets are not mixed.")
    data = load_data(data_set)
    names, written = data.classes[:classes], 0
    try:
        for label, name in enumerate(names):
            (out / name).mkdir(parents=True)
            every = [(of, key) for of in data.splits.values() for key in of.subset(_at(of.labels, label)).keys]
            for number, (images, key) in enumerate(every):
                (out / name / f"{number:03}.png").write_bytes(images.store.read(key))
            written += len(every)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}.") from None
    return written, len(names)


def _at(labels: tuple[int, ...], label: int) -> list[int]:
    return [i for i, found in enumerate(labels) if found == label]
