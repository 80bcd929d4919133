"""Tables, plots and one self-contained page, from records only."""

from __future__ import annotations

from steadyclip.report.cells import Table
from steadyclip.report.page import write_page, write_tables
from steadyclip.report.tables import main_table

__all__ = ["Table", "main_table", "write_page", "write_tables"]
