"""bulkpull: bulk download of Ironclad Clickwrap activity into one deduplicated file.

    async with bulkpull.Clickwrap(token) as clickwrap:
        result = await bulkpull.pull(clickwrap, start=date(2020, 1, 1), out="activity.csv")

The names in `__all__`, and the modules `events`, `errors`, `otel` and `sandbox`, are public. Everything else may change
in any version. A service that keeps the options of a pull builds `PullOptions(...)` and passes `**options.asdict()`.

Names are imported when they are first used. Where that would hold up an event loop, import them at the start:
`from bulkpull import Clickwrap, pull`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull import errors, events
    from bulkpull.clickwrap import Clickwrap
    from bulkpull.errors import (
        ApiError,
        AuthenticationError,
        BulkpullError,
        ClusterError,
        ExportError,
        FileNotReadyError,
        FormatError,
        LinkExpiredError,
        MalformedPartError,
        NotFoundError,
        OutputError,
        PartError,
        RangeRefusedError,
        ReaderGoneError,
        ShrinkError,
        ThrottledError,
        TransferError,
        UnavailableError,
        UsageError,
    )
    from bulkpull.events import Event
    from bulkpull.functions import plan, pull, rows, stream, table
    from bulkpull.journal import Status, status, unfinished
    from bulkpull.many import Job, JobResult, pull_many
    from bulkpull.planning import Plan, PlanOptions
    from bulkpull.progress import Progress, ProgressSnapshot
    from bulkpull.pull import (
        CountMismatch,
        PullOptions,
        Recount,
        Result,
        RowBatch,
        RowStream,
        StreamOptions,
        Verification,
        verify,
    )
    from bulkpull.report import write_report
    from bulkpull.retry import RetryPolicy
    from bulkpull.source import Body, Columns, Export, Source
    from bulkpull.store import DataSet, DataSetFile, Difference, open_dataset
    from bulkpull.sync import LoadOptions, Recheck, SyncOptions, SyncResult
    from bulkpull.table_functions import load, sync
    from bulkpull.window import Window

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AuthenticationError",
    "Body",
    "BulkpullError",
    "Clickwrap",
    "ClusterError",
    "Columns",
    "CountMismatch",
    "DataSet",
    "DataSetFile",
    "Difference",
    "Event",
    "Export",
    "ExportError",
    "FileNotReadyError",
    "FormatError",
    "Job",
    "JobResult",
    "LinkExpiredError",
    "LoadOptions",
    "MalformedPartError",
    "NotFoundError",
    "OutputError",
    "PartError",
    "Plan",
    "PlanOptions",
    "Progress",
    "ProgressSnapshot",
    "PullOptions",
    "RangeRefusedError",
    "ReaderGoneError",
    "Recheck",
    "Recount",
    "Result",
    "RetryPolicy",
    "RowBatch",
    "RowStream",
    "ShrinkError",
    "Source",
    "Status",
    "StreamOptions",
    "SyncOptions",
    "SyncResult",
    "ThrottledError",
    "TransferError",
    "UnavailableError",
    "UsageError",
    "Verification",
    "Window",
    "errors",
    "events",
    "load",
    "open_dataset",
    "plan",
    "pull",
    "pull_many",
    "rows",
    "status",
    "stream",
    "sync",
    "table",
    "unfinished",
    "verify",
    "write_report",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "clickwrap": ("Clickwrap",),
            "errors": [name for name in __all__ if name.endswith("Error")],
            "events": ("Event",),
            "functions": ("plan", "pull", "rows", "stream", "table"),
            "journal": ("Status", "status", "unfinished"),
            "many": ("Job", "JobResult", "pull_many"),
            "planning": ("Plan", "PlanOptions"),
            "progress": ("Progress", "ProgressSnapshot"),
            "pull": (
                "CountMismatch",
                "PullOptions",
                "Recount",
                "Result",
                "RowBatch",
                "RowStream",
                "StreamOptions",
                "Verification",
                "verify",
            ),
            "report": ("write_report",),
            "retry": ("RetryPolicy",),
            "source": ("Body", "Columns", "Export", "Source"),
            "store": ("DataSet", "DataSetFile", "Difference", "open_dataset"),
            "table_functions": ("load", "sync"),
            "sync": ("LoadOptions", "Recheck", "SyncOptions", "SyncResult"),
            "window": ("Window",),
        },
        submodules=("errors", "events", "sandbox"),
    )
    # Packages must not hide the functions of the same names: their first import sets the name, so it comes first.
    import_module("bulkpull.pull")
    import_module("bulkpull.rows")
    import_module("bulkpull.sync")
    del pull, rows, sync
