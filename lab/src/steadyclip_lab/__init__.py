"""What steadyclip is tried out with: data sets of drawings, a small CLIP, and how that was pretrained.

steadyclip finds all of it through the entry points of this distribution (``pyproject.toml``).
"""

from __future__ import annotations

__version__ = "0.1.0"
