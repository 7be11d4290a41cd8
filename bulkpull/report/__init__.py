"""The report of a pull: one HTML page of figures and charts, from the timeline in its journal or its manifest."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.report.report import check_report_path, report_page, save_report, write_report
else:
    __getattr__, __dir__ = lazily(
        __name__, {"report": ("check_report_path", "report_page", "save_report", "write_report")}
    )

__all__ = ["check_report_path", "report_page", "save_report", "write_report"]
