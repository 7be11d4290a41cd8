"""What a pull has done, so that it is never done twice."""

from bulkpull.journal.journal import Journal
from bulkpull.journal.reading import JournalReader
from bulkpull.journal.records import ExportRecord, Figures, Frontier, Outcome, PartRecord, Progress, Verdict
from bulkpull.journal.resume import has_begun, resume
from bulkpull.journal.status import Status, WindowStatus, status

__all__ = [
    "ExportRecord",
    "Figures",
    "Frontier",
    "Journal",
    "JournalReader",
    "Outcome",
    "PartRecord",
    "Progress",
    "Status",
    "Verdict",
    "WindowStatus",
    "has_begun",
    "resume",
    "status",
]
