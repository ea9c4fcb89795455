"""The page of a run: made from its folder alone, so without torch, a model or a network."""

from pilotage.report.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
