"""Skips this folder where the extra `icons` is not installed."""

from __future__ import annotations

import pytest

pytest.importorskip("resvg_py", reason="needs the extra `icons`")
pytest.importorskip("emoji", reason="needs the extra `icons`")
