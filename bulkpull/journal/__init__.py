"""What a pull has done, so that it is never done twice."""

from bulkpull.journal.earlier import EarlierPull, earlier_pull
from bulkpull.journal.journal import Journal
from bulkpull.journal.reading import JournalReader, has_journal
from bulkpull.journal.recorder import Recorder
from bulkpull.journal.records import (
    ExportRecord,
    Figures,
    Frontier,
    Outcome,
    PartRecord,
    PlacedConflict,
    Progress,
    Verdict,
)
from bulkpull.journal.resume import has_begun, resume
from bulkpull.journal.status import Status, WindowStatus, is_running, status, unfinished
from bulkpull.journal.timeline import Moment, Timeline, TimelineWindow, decoded, encoded
from bulkpull.journal.trouble import Trouble

__all__ = [
    "EarlierPull",
    "ExportRecord",
    "Figures",
    "Frontier",
    "Journal",
    "JournalReader",
    "Moment",
    "Outcome",
    "PartRecord",
    "PlacedConflict",
    "Progress",
    "Recorder",
    "Status",
    "Timeline",
    "TimelineWindow",
    "Trouble",
    "Verdict",
    "WindowStatus",
    "decoded",
    "earlier_pull",
    "encoded",
    "has_begun",
    "has_journal",
    "is_running",
    "resume",
    "status",
    "unfinished",
]
