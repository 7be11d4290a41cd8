"""Where rows end up: destinations behind one protocol, their manifests, and the work directory of a pull."""

from bulkpull.store.check import Difference, compare
from bulkpull.store.destination import Destination, destination_for, feed
from bulkpull.store.manifest import (
    Manifest,
    ManifestCompleteness,
    ManifestMismatch,
    ManifestWindow,
    ManifestWriter,
    manifest_path,
    read_manifest,
)
from bulkpull.store.pipe import ByteStream, Pipe, byte_stream_at
from bulkpull.store.render import memory_to_render
from bulkpull.store.stream import Stream
from bulkpull.store.work import WorkDirectory, resolved

__all__ = [
    "ByteStream",
    "Destination",
    "Difference",
    "Manifest",
    "ManifestCompleteness",
    "ManifestMismatch",
    "ManifestWindow",
    "ManifestWriter",
    "Pipe",
    "Stream",
    "WorkDirectory",
    "byte_stream_at",
    "compare",
    "destination_for",
    "feed",
    "manifest_path",
    "memory_to_render",
    "read_manifest",
    "resolved",
]
