"""The report: figures, tables and one self-contained HTML page."""

from jaxweights.report.page import check, write
from jaxweights.report.tables import summary

__all__ = ["check", "summary", "write"]
