"""Tables that hold a copy of the site's activity, in databases and files, behind one protocol."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.tables.address import table_at
    from bulkpull.tables.table import DELETED_COLUMN, Changes, Deleted, Delivery, OnConflict, Policy, Table
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "address": ("table_at",),
            "table": ("DELETED_COLUMN", "Changes", "Deleted", "Delivery", "OnConflict", "Policy", "Table"),
        },
    )

__all__ = ["DELETED_COLUMN", "Changes", "Deleted", "Delivery", "OnConflict", "Policy", "Table", "table_at"]
