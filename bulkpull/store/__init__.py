"""Where rows end up: destinations behind one protocol, and the work directory of a pull."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.store.address import ObjectUrl
    from bulkpull.store.dataset import DataSet, DataSetFile, open_dataset
    from bulkpull.store.destination import Destination, destination_for, feed
    from bulkpull.store.render import memory_to_render
    from bulkpull.store.work import WorkDirectory, resolved
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "address": ("ObjectUrl",),
            "dataset": ("DataSet", "DataSetFile", "open_dataset"),
            "destination": ("Destination", "destination_for", "feed"),
            "render": ("memory_to_render",),
            "work": ("WorkDirectory", "resolved"),
        },
    )

__all__ = [
    "DataSet",
    "DataSetFile",
    "Destination",
    "ObjectUrl",
    "WorkDirectory",
    "destination_for",
    "feed",
    "memory_to_render",
    "open_dataset",
    "resolved",
]
