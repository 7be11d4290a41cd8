"""Where rows end up: destinations behind one protocol, their manifests, and the work directory of a pull."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.store.address import SCHEMES, ObjectUrl
    from bulkpull.store.bucket import AlreadyExists, Bucket
    from bulkpull.store.check import Difference, compare
    from bulkpull.store.dataset import MANIFEST, DataSet, DataSetFile, open_dataset
    from bulkpull.store.destination import Destination, destination_for, feed
    from bulkpull.store.local import LocalDirectory
    from bulkpull.store.manifest import (
        MANIFEST_SUFFIX,
        Manifest,
        ManifestCompleteness,
        ManifestMismatch,
        ManifestWindow,
        ManifestWriter,
        manifest_path,
        read_manifest,
    )
    from bulkpull.store.pipe import ByteStream, Pipe, byte_stream_at
    from bulkpull.store.published import published_manifest
    from bulkpull.store.remote import OPEN, RemoteDataSet, read_remote_manifest
    from bulkpull.store.render import Renderer, memory_to_render
    from bulkpull.store.stream import Stream
    from bulkpull.store.upload import Upload
    from bulkpull.store.work import WorkDirectory, resolved
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "address": ("SCHEMES", "ObjectUrl"),
            "bucket": ("AlreadyExists", "Bucket"),
            "check": ("Difference", "compare"),
            "dataset": ("MANIFEST", "DataSet", "DataSetFile", "open_dataset"),
            "destination": ("Destination", "destination_for", "feed"),
            "local": ("LocalDirectory",),
            "manifest": (
                "MANIFEST_SUFFIX",
                "OPEN",
                "Manifest",
                "ManifestCompleteness",
                "ManifestMismatch",
                "ManifestWindow",
                "ManifestWriter",
                "manifest_path",
                "read_manifest",
            ),
            "pipe": ("ByteStream", "Pipe", "byte_stream_at"),
            "remote": ("OPEN", "RemoteDataSet", "read_remote_manifest"),
            "render": ("Renderer", "memory_to_render"),
            "published": ("published_manifest",),
            "stream": ("Stream",),
            "upload": ("Upload",),
            "work": ("WorkDirectory", "resolved"),
        },
    )

__all__ = [
    "MANIFEST",
    "MANIFEST_SUFFIX",
    "OPEN",
    "SCHEMES",
    "AlreadyExists",
    "Bucket",
    "ByteStream",
    "DataSet",
    "DataSetFile",
    "Destination",
    "Difference",
    "LocalDirectory",
    "Manifest",
    "ManifestCompleteness",
    "ManifestMismatch",
    "ManifestWindow",
    "ManifestWriter",
    "ObjectUrl",
    "Pipe",
    "RemoteDataSet",
    "Renderer",
    "Stream",
    "Upload",
    "WorkDirectory",
    "byte_stream_at",
    "compare",
    "destination_for",
    "feed",
    "manifest_path",
    "memory_to_render",
    "open_dataset",
    "published_manifest",
    "read_manifest",
    "read_remote_manifest",
    "resolved",
]
