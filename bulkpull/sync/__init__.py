"""Keep a copy of the site's activity up to date, in a table that knows how far it is."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.sync.loading import LoadOptions, load
    from bulkpull.sync.options import SyncOptions, TableOptions, table_of
    from bulkpull.sync.order import work_directory
    from bulkpull.sync.result import Recheck, SyncResult
    from bulkpull.sync.syncing import sync
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "loading": ("LoadOptions", "load"),
            "options": ("SyncOptions", "TableOptions", "table_of"),
            "order": ("work_directory",),
            "result": ("Recheck", "SyncResult"),
            "syncing": ("sync",),
        },
    )

__all__ = [
    "LoadOptions",
    "Recheck",
    "SyncOptions",
    "SyncResult",
    "TableOptions",
    "load",
    "sync",
    "table_of",
    "work_directory",
]
