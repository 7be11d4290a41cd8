"""bulkpull: bulk download of Ironclad Clickwrap activity into one deduplicated file.

    async with bulkpull.Clickwrap(token) as clickwrap:
        result = await bulkpull.pull(clickwrap, start=date(2020, 1, 1), out="activity.csv")

The names in `__all__`, and the modules `events`, `errors` and `sandbox`, are public. Everything else may change in any
version. A service that keeps the options of a pull builds `PullOptions(...)` and passes `**options.asdict()`.

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
        ExportError,
        FileNotReadyError,
        FormatError,
        LinkExpiredError,
        MalformedPartError,
        NotFoundError,
        OutputError,
        PartError,
        RangeRefusedError,
        ThrottledError,
        TransferError,
        UnavailableError,
        UsageError,
    )
    from bulkpull.events import Event
    from bulkpull.functions import plan, pull
    from bulkpull.journal import Status, status
    from bulkpull.planning import Plan, PlanOptions
    from bulkpull.pull import CountMismatch, PullOptions, Result
    from bulkpull.retry import RetryPolicy
    from bulkpull.source import Body, Columns, Export, Source
    from bulkpull.store import DataSet, DataSetFile, open_dataset
    from bulkpull.window import Window

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AuthenticationError",
    "Body",
    "BulkpullError",
    "Clickwrap",
    "Columns",
    "CountMismatch",
    "DataSet",
    "DataSetFile",
    "Event",
    "Export",
    "ExportError",
    "FileNotReadyError",
    "FormatError",
    "LinkExpiredError",
    "MalformedPartError",
    "NotFoundError",
    "OutputError",
    "PartError",
    "Plan",
    "PlanOptions",
    "PullOptions",
    "RangeRefusedError",
    "Result",
    "RetryPolicy",
    "Source",
    "Status",
    "ThrottledError",
    "TransferError",
    "UnavailableError",
    "UsageError",
    "Window",
    "errors",
    "events",
    "open_dataset",
    "plan",
    "pull",
    "status",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "clickwrap": ("Clickwrap",),
            "errors": [name for name in __all__ if name.endswith("Error")],
            "events": ("Event",),
            "functions": ("plan", "pull"),
            "journal": ("Status", "status"),
            "planning": ("Plan", "PlanOptions"),
            "pull": ("CountMismatch", "PullOptions", "Result"),
            "retry": ("RetryPolicy",),
            "source": ("Body", "Columns", "Export", "Source"),
            "store": ("DataSet", "DataSetFile", "open_dataset"),
            "window": ("Window",),
        },
        submodules=("errors", "events", "sandbox"),
    )
    # The package `bulkpull.pull` must not hide the function: its first import sets the name, so it comes first.
    import_module("bulkpull.pull")
    del pull
