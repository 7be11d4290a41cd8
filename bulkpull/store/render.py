"""Rendering: from the merged CSV to the output's format, while the merge still appends to it.

Each run renders from the start: only the merged CSV is resumed. The same CSV renders to the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from anyio import from_thread

from bulkpull.disk import discard, disk_errors, sync_directory, sync_file, write_all
from bulkpull.record import record
from bulkpull.rows.compress import compressed
from bulkpull.rows.format import DATA_SET_FILE, Format
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.rows.records import read_chunks
from bulkpull.source import Columns
from bulkpull.store.manifest import sha256_of

_PARQUET_BYTES = 160_000_000  # of memory
_ARROW_BYTES = 96_000_000
_TEXT_BYTES = 40_000_000


def memory_to_render(format: Format) -> int:
    """Bytes of memory, approximately, that rendering takes in addition to a pull to plain CSV."""
    if format.is_merged_already:
        return 0
    return {"parquet": _PARQUET_BYTES, "arrow": _ARROW_BYTES}.get(format.name, _TEXT_BYTES)


@record
class Renderer:
    """Writes a merged CSV to `path` in a `format`. `provenance` is called at its end, for formats that store it."""

    path: Path
    format: Format
    columns: Columns
    provenance: Callable[[], Mapping[str, str]]

    @property
    def is_needed(self) -> bool:
        """Whether the format differs from that of the merged CSV."""
        return not self.format.is_merged_already

    def render(self, merged: GrowingFile) -> dict[str, str]:
        """Write all of `merged`, and sync it. Blocks until its end is known.

        Returns the SHA-256 of each file by its path relative to `path`, which is empty if that is a file itself.

        Raises:
            FormatError: a value that the format cannot hold.
            OutputError: the disk failed.
            Superseded: see `GrowingFile`.
        """
        with disk_errors(f"write the output as {self.format.name}", at=self.path):
            discard(self.path)
            if self.format.name == "parquet":
                checksums = self._write_parquet(merged)
            elif self.format.name == "arrow":
                checksums = self._write_arrow(merged)
            else:
                checksums = self._write_text(merged)
            _sync(self.path)
            return checksums

    def _write_parquet(self, merged: GrowingFile) -> dict[str, str]:
        from bulkpull.rows.parquet import write_parquet  # pyarrow is optional

        write_parquet(
            merged,
            self.path,
            columns=self.columns,
            all_strings=self.format.all_strings,
            partition_by=self.format.partition_by,
            provenance=self.provenance,
            checkpoint=from_thread.check_cancelled,
        )
        # Read back: the files are small, and still in the page cache.
        files = self.path.rglob(DATA_SET_FILE) if self.format.is_data_set else (self.path,)
        return {"" if path == self.path else path.relative_to(self.path).as_posix(): _checksum(path) for path in files}

    def _write_arrow(self, merged: GrowingFile) -> dict[str, str]:
        from bulkpull.rows.arrow import write_arrow  # pyarrow is optional

        write_arrow(
            merged,
            self.path,
            columns=self.columns,
            all_strings=self.format.all_strings,
            checkpoint=from_thread.check_cancelled,
        )
        return {"": _checksum(self.path)}

    def _write_text(self, merged: GrowingFile) -> dict[str, str]:
        pieces: Iterator[bytes] = read_chunks(merged, from_thread.check_cancelled)
        if self.format.name == "ndjson":
            from bulkpull.rows.ndjson import ndjson  # imports NumPy: not in the event loop's thread

            pieces = ndjson((merged,), key=self.columns.key, flat=self.format.flat)
        if self.format.compression:
            pieces = compressed(pieces, self.format.compression)
        digest = sha256()
        with self.path.open("wb", buffering=0) as file:
            for piece in pieces:
                from_thread.check_cancelled()
                write_all(file.fileno(), [piece])
                digest.update(piece)
        return {"": digest.hexdigest()}


def _checksum(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return sha256_of(file, from_thread.check_cancelled)


def _sync(path: Path) -> None:
    """Sync a file, or a directory and everything in it."""
    if path.is_dir():
        for inner in path.iterdir():
            _sync(inner)
        sync_directory(path)
    else:
        file = os.open(path, os.O_RDONLY)
        try:
            sync_file(file)
        finally:
            os.close(file)
