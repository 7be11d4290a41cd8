"""One pull: the journeys of all windows from launch to merge, and the orchestrator that joins them.

A stage is a file: export, collect, merge. What a window delivered is doubted, and reconciled, before its rows stay.
"""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.pull.collect import Links, PartLink
    from bulkpull.pull.completeness import CountMismatch
    from bulkpull.pull.doubts import Delivery, Doubts, contradiction
    from bulkpull.pull.extra import default_extra
    from bulkpull.pull.journey import DamagedPart, ExportFailure, Journey, Part, cancelled_from_within
    from bulkpull.pull.memory import shared_memory
    from bulkpull.pull.options import MAX_BUCKETS, PullOptions, RunOptions, check_names
    from bulkpull.pull.orchestrator import plain, pull, run
    from bulkpull.pull.result import Result
    from bulkpull.pull.streaming import RowBatch, RowStream, StreamOptions, rows, stream, table
    from bulkpull.pull.verification import Recount, Verification, verify
    from bulkpull.pull.workers import Workers
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "collect": ("Links", "PartLink"),
            "completeness": ("CountMismatch",),
            "doubts": ("Delivery", "Doubts", "contradiction"),
            "extra": ("default_extra",),
            "journey": ("DamagedPart", "ExportFailure", "Journey", "Part", "cancelled_from_within"),
            "options": ("MAX_BUCKETS", "PullOptions", "RunOptions", "check_names"),
            "memory": ("shared_memory",),
            "orchestrator": ("plain", "pull", "run"),
            "result": ("Result",),
            "streaming": ("RowBatch", "RowStream", "StreamOptions", "rows", "stream", "table"),
            "verification": ("Recount", "Verification", "verify"),
            "workers": ("Workers",),
        },
    )

__all__ = [
    "MAX_BUCKETS",
    "CountMismatch",
    "DamagedPart",
    "Delivery",
    "Doubts",
    "ExportFailure",
    "Journey",
    "Links",
    "Part",
    "PartLink",
    "PullOptions",
    "Recount",
    "Result",
    "RowBatch",
    "RowStream",
    "RunOptions",
    "StreamOptions",
    "Verification",
    "Workers",
    "cancelled_from_within",
    "check_names",
    "contradiction",
    "default_extra",
    "plain",
    "pull",
    "rows",
    "run",
    "shared_memory",
    "stream",
    "table",
    "verify",
]
