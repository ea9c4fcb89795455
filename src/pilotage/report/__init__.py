"""The page of a run: made from its folder alone, so without torch, a model or a network."""

from pilotage.report.page import REPORT_NAME, write_report
from pilotage.report.tables import write_tables

__all__ = ["REPORT_NAME", "write_report", "write_tables"]
