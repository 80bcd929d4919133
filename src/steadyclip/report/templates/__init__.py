"""Pages and tables as jinja2 templates; everything put into them is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any


def render(template: str, **values: Any) -> str:
    """The template with ``values`` put in, as HTML or Markdown by its name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("steadyclip.report"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"md": _markdown, "sha256": _sha256}
    return environment.get_template(template).render(**values)


def _markdown(text: str) -> str:
    """``text`` as plain text in a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _sha256(text: str) -> str:
    """The hash by which a page knows its own script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
