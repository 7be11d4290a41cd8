"""bulkpull: bulk download of Ironclad Clickwrap activity into one deduplicated file.

    async with bulkpull.Clickwrap(token) as clickwrap:
        result = await bulkpull.pull(clickwrap, start=date(2020, 1, 1), out="activity.csv")

The names in `__all__`, and the modules `events`, `errors` and `sandbox`, are public. Everything else may change in any
version. A service that keeps the options of a pull builds `PullOptions(...)` and passes `**options.asdict()`.
"""

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
from bulkpull.journal import Status, status
from bulkpull.options import with_keywords
from bulkpull.planning import Plan, PlanOptions
from bulkpull.planning.plan import plan as _plan
from bulkpull.pull import CountMismatch, PullOptions, Result
from bulkpull.pull.orchestrator import pull as _pull
from bulkpull.retry import RetryPolicy
from bulkpull.source import Body, Columns, Export, Source
from bulkpull.window import Window

plan = with_keywords(PlanOptions)(_plan)
pull = with_keywords(PullOptions)(_pull)

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AuthenticationError",
    "Body",
    "BulkpullError",
    "Clickwrap",
    "Columns",
    "CountMismatch",
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
    "plan",
    "pull",
    "status",
]
