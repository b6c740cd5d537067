"""The report: figures, tables and one self-contained HTML page."""

from jaxweights.report.costs import write as write_costs
from jaxweights.report.page import write
from jaxweights.report.settings import ReportSettings
from jaxweights.report.terminal import summary

__all__ = ["ReportSettings", "summary", "write", "write_costs"]
