"""A finished or unfinished run folder, shown: pictures and one self-contained HTML file."""

from unmix.report.html import write_report

__all__ = ["write_report"]
