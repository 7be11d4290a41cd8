"""Where rows end up: destinations behind one protocol, and the work directory of a pull."""

from bulkpull.store.destination import Destination, destination_for, feed
from bulkpull.store.pipe import ByteStream, Pipe, byte_stream_at
from bulkpull.store.render import memory_to_render
from bulkpull.store.work import WorkDirectory, resolved

__all__ = [
    "ByteStream",
    "Destination",
    "Pipe",
    "WorkDirectory",
    "byte_stream_at",
    "destination_for",
    "feed",
    "memory_to_render",
    "resolved",
]
