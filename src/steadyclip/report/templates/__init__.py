"""The page and its parts as jinja2 templates; everything put into them is escaped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def render(template: str, **values: Any) -> str:
    """The template with ``values`` put in, as HTML."""
    return _environment().get_template(template).render(**values)


def text(name: str) -> str:
    """A file beside the templates as it stands."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
