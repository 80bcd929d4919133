"""``load_data``: one call for every kind of data source."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from steadyclip.core.errors import DataError, UsageError, nearest
from steadyclip.core.extensions import DATA, SUITES, absent
from steadyclip.core.files import expanded
from steadyclip.data import catalog
from steadyclip.data.builtin import builtin_names, find_builtin
from steadyclip.data.layouts import ARCHIVES, find_zhou, read_folder, read_manifest, read_zhou
from steadyclip.data.listing import Listing, assemble
from steadyclip.data.prompts import resolve_templates
from steadyclip.data.suites import find_suite, suite_names
from steadyclip.data.tables import PARQUET, TEXT
from steadyclip.data.task import ImageData

ROOT_VARIABLE = "STEADYCLIP_DATA"
"""The environment variable that names the folder of the field's data sets."""


def load_data(
    spec: str | Path,
    *,
    templates: str | Sequence[str] | None = None,
    max_unreadable: float = 0.05,
    image_column: str = "path",
    label_column: str = "label",
    root: str | Path | None = None,
    sources: Sequence[str] = (),
) -> ImageData:
    """The data source ``spec``. Images are listed, none is opened.

    Args:
        spec: a folder ``class/image`` (with or without train, val, test above the classes), a folder with a
            ``split_zhou_*.json`` or that file, a ``.csv`` or ``.parquet`` table, or (as a string) the name of a
            built-in data set or of one of the field's (``caltech101``). ``./icons`` or a ``Path`` is always a folder.
        templates: prompts with ``{}`` for the class name, or the name of a set (such as "imagenet-80"); by default
            the data set's own.
        max_unreadable: share of the images that may be unreadable before it is an error.
        image_column: the table's column with the paths or the encoded images.
        label_column: the table's column with the class names.
        root: the folder that holds the field's data sets; by default the environment variable STEADYCLIP_DATA.
        sources: domains to train on; all images of the others are then test images. By default every domain.

    Raises:
        DataError: the source is not there or cannot be used; one line says where and what to do.
        UsageError: a wrong template or share.
    """
    if not 0 <= max_unreadable <= 1:
        raise UsageError(f"max_unreadable is a share between 0 and 1, not {max_unreadable}.")
    chosen = None if templates is None else resolve_templates(templates)
    root = root or os.environ.get(ROOT_VARIABLE)
    of_the_field = catalog.find(spec) if isinstance(spec, str) else None
    if builtin := find_builtin(spec):
        listing = dataclasses.replace(read_manifest(builtin.table()), name=str(spec))
    elif of_the_field and root:
        listing = catalog.read(of_the_field, expanded(root))
    elif of_the_field and not Path(spec).exists():
        raise DataError(
            f"{spec} is one of the field's data sets: name the folder that holds {of_the_field.folder}/ with --root, "
            f"or with the environment variable {ROOT_VARIABLE}."
        )
    else:
        try:
            listing = _read(expanded(spec), str(spec), image_column, label_column)
        except PermissionError as error:
            raise DataError(f"{error.filename} may not be read: permission denied.") from None
    if chosen:
        listing.templates = chosen
    data = assemble(listing, max_unreadable)
    return data.with_sources(sources) if sources else data


def _read(path: Path, spec: str, image_column: str, label_column: str) -> Listing:
    kind = path.suffix.lower()
    if not spec.strip() or not path.exists():
        if suite := find_suite(spec):
            one_of = ", ".join(suite.members)
            raise DataError(f"{spec} stands for {len(suite.members)} data sets, for bench. Name one: {one_of}.")
        if elsewhere := absent(DATA, spec) or absent(SUITES, spec):
            raise DataError(f"no data {spec!r} here: {elsewhere}.")
        builtin = builtin_names()
        names = f" Built-in data: {', '.join(builtin)}." if builtin else ""
        known = (*builtin, *suite_names(), *(entry.name.lower() for entry in catalog.catalog()))
        hint = nearest(spec.lower(), known) if path.name == spec else ""
        raise DataError(f"no folder, file or built-in data {spec!r}.{hint}{names} Others: steadyclip data list.")
    if path.is_dir():
        split = find_zhou(path)
        return read_zhou(split) if split else read_folder(path)
    if kind in (*TEXT, *PARQUET):
        return read_manifest(path, image_column, label_column)
    if kind == ".json":
        return read_zhou(path)
    if path.name.lower().endswith(ARCHIVES):
        raise DataError(f"{spec} is an archive: extract it, and name the folder.")
    raise DataError(f"{spec} is neither a folder nor a .csv, .parquet or split_zhou_*.json file.")
