"""Tables, plots and one self-contained page, from records only."""

from __future__ import annotations

from steadyclip.report.cells import Table
from steadyclip.report.page import write_charts, write_page, write_tables
from steadyclip.report.tables import main_table
from steadyclip.report.verdict import Verdict, need_verdict, verdict

__all__ = ["Table", "Verdict", "main_table", "need_verdict", "verdict", "write_charts", "write_page", "write_tables"]
