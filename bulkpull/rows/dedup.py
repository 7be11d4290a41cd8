"""Deduplication: merges parts one after another and keeps the first row of each id."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bulkpull.record import record
from bulkpull.rows.arriving_file import ArrivingFile
from bulkpull.rows.block import Block, Keys, Layout, Positions, layout_of
from bulkpull.rows.cells import has_value
from bulkpull.rows.compare import equal_in_block
from bulkpull.rows.held_file import HeldFile, open_file
from bulkpull.rows.key_index import KeyIndex
from bulkpull.rows.records import CsvError, File, read_header, records, unquote
from bulkpull.rows.scan import Prefetcher, Scanner
from bulkpull.rows.sink import CsvSink
from bulkpull.source import Columns

_MAX_SPANS = 4096  # of kept rows in a block; more are copied into one buffer instead of being written one by one


class Conflict(NamedTuple):
    """The row that is kept and a later one with the same id and other values, by column. An empty cell is None."""

    kept: dict[str, str | None]
    other: dict[str, str | None]


@record(frozen=False)
class PartStats:
    """Counts of one merged part.

    `delivered` is the number of records in the file, `rows` those that were new. `duplicates` repeat an id, `conflicts`
    of them with other values. `outside` is the number of records whose time is not in the window. `earlier` is the
    number of ids that an earlier window had delivered already, each counted once per window, so that `rows + earlier`
    summed over a window's parts is its number of distinct ids. `missing` are columns of the output that the part lacks,
    `unasked` columns of the part that the output lacks. `conflicting` are the conflicts themselves, if they were asked
    for, by id.
    """

    delivered: int = 0
    rows: int = 0
    earlier: int = 0
    duplicates: int = 0
    conflicts: int = 0
    outside: int = 0
    missing: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    conflicting: list[Conflict] = field(default_factory=list)


@record(frozen=False)
class _SameKey:
    """Rows with the same key: those of the current block by index, those in the output by offset.

    The values of both are cached once they have been read.
    """

    rows: list[int] = field(default_factory=list)
    offsets: set[int] = field(default_factory=set)
    values_at: dict[int, list[bytes]] = field(default_factory=dict)
    values_of: dict[int, list[bytes]] = field(default_factory=dict)


@record
class _FirstRow:
    """The first row of an id, compared with a repeat: whether they differ, and the first row's offset in the output.

    The offset is None if the first row is in the same block as the repeat. `values` are those of a first row that
    differs.
    """

    differs: bool
    offset: int | None = None
    values: Sequence[bytes] = ()


class Deduplicator:
    """Writes the first row of each id to `sink`, in the order in which parts are added.

    The index of ids takes up to `memory` bytes of memory; the rest is spilled to a file in the sink's directory. Rows
    added since the last `keep` can be rolled back. If it `collects_conflicts`, the counts of a part have them.
    """

    def __init__(self, sink: CsvSink, memory: int, columns: Columns, *, collects_conflicts: bool = False) -> None:
        self._collects_conflicts = collects_conflicts
        self._sink = sink
        self._columns = columns
        self._scanner = Scanner()
        self._prefetcher = Prefetcher()
        # One thread for all blocks: the allocator keeps freed memory per thread, so more threads take more memory.
        self._thread = ThreadPoolExecutor(1, "merge")
        self._index = KeyIndex(sink.path.parent, memory)
        self._kept_offset = 0
        self._earlier: list[Positions] = []  # sorted runs of offsets counted as `earlier` since `keep`
        self._filled = np.zeros(0, np.bool_)  # for each column, whether any row has a value
        self._kept_filled = self._filled

    def restore(self, on_header: Callable[[tuple[str, ...]], None], checkpoint: Callable[[], None]) -> None:
        """Index the ids of the rows that an earlier run wrote to the sink, if any.

        `on_header` is called with the columns of its header, which are fewer than the sink's if some appeared later.
        """
        with self._sink.reader() as file:
            if self._sink.offset:
                columns, offset = read_header(file, checkpoint, self._columns.key)
                if not columns:
                    raise CsvError(1, "the header is missing")
                on_header(columns)
                layout = Layout(width=None, key_at=columns.index(self._columns.key))

                def index(block: Block) -> None:
                    nonlocal offset
                    self._update_filled(block)
                    order = np.argsort(block.keys, kind="stable")
                    self._index.add(block.keys[order], block.starts[order] + offset)
                    offset += int(block.ends[-1])

                self._for_each(self._scanner.blocks_so_far(file, offset, layout, b"", b""), index, checkpoint)
        self.keep()

    def add(self, part: Path | HeldFile, start: bytes, end: bytes, checkpoint: Callable[[], None]) -> PartStats:
        """Merge a CSV; count the rows whose time is outside [start, end).

        `start` and `end` are 24-character instants. `checkpoint` is called between blocks and may raise to stop. An
        empty file, even one without a header, is a part without rows. Raises CsvError if the file is not a CSV with the
        key column, or has ragged rows.
        """
        stats = PartStats()
        with open_file(part) as file:
            for _ in self.follow(file, start, end, checkpoint, stats):
                raise AssertionError("a complete file is merged in one go")
        return stats

    def follow(
        self, file: File, start: bytes, end: bytes, checkpoint: Callable[[], None], stats: PartStats
    ) -> Generator[None]:
        """Merge a CSV that may still be arriving, and count its rows in `stats`. See `add`.

        Yields whenever more of the file has to arrive. Until the end, no other part can be merged. Raises CsvError and
        NotArrivedError.
        """
        columns, body = read_header(file, checkpoint, self._columns.key)
        if not columns:
            return
        self._sink.add_columns(columns)
        of_part, of_output = frozenset(columns), frozenset(self._sink.columns)
        stats.missing = tuple(column for column in self._sink.columns if column not in of_part)
        stats.unasked = tuple(column for column in columns if column not in of_output)
        layout = layout_of(columns, self._sink.columns, self._columns)
        with closing(self._scanner.blocks_so_far(file, body, layout, start, end)) as blocks:
            while True:
                self._for_each(blocks, partial(self._merge, stats=stats), checkpoint)
                if not isinstance(file, ArrivingFile) or file.is_whole:
                    # Not in the order in which they were found: that depends on where blocks end.
                    stats.conflicting.sort(key=lambda one: one.kept[self._columns.key] or "")
                    return
                yield

    def keep(self) -> None:
        """Keep the rows added since the last call; they can no longer be rolled back."""
        self._index.keep()
        self._kept_offset = self._sink.offset
        self._kept_filled = self._filled
        self._earlier.clear()

    def roll_back(self, offset: int, columns: Sequence[str]) -> None:
        """Discard the rows added since the last `keep`, when the sink had this offset and these columns."""
        self._index.discard_fresh()
        self._sink.truncate(offset, columns)
        self._filled = self._kept_filled
        self._earlier.clear()

    def empty_columns(self) -> tuple[str, ...]:
        """Return the columns in which all rows are empty (quoted or not); none if there are no rows."""
        if not self._filled.any():
            return ()
        filled = frozenset(np.flatnonzero(self._filled).tolist())
        return tuple(column for at, column in enumerate(self._sink.columns) if at not in filled)

    def close(self) -> None:
        """Close the index and stop the threads."""
        self._prefetcher.close()
        self._thread.shutdown()
        self._index.close()

    def _for_each(
        self, scan: Generator[Block | None], work: Callable[[Block], None], checkpoint: Callable[[], None]
    ) -> None:
        """Call `work` with each block in the merge's thread, while the next one is scanned."""
        with closing(self._prefetcher.blocks(scan)) as blocks:
            for block in blocks:
                checkpoint()
                self._thread.submit(work, block).result()

    def _update_filled(self, block: Block) -> None:
        """Note the columns that have their first value in this block."""
        width = block.separators.shape[1]
        if len(self._filled) < width:
            self._filled = np.pad(self._filled, (0, width - len(self._filled)))
        empty = np.flatnonzero(~self._filled[:width])
        if len(empty) and len(found := empty[has_value(block, empty).any(axis=0)]):
            self._filled = self._filled.copy()  # `_kept_filled` may share the array
            self._filled[found] = True

    def _merge(self, block: Block, stats: PartStats) -> None:
        # Rows that will be dropped count as well: except for conflicts, they have the values of a row that is kept.
        self._update_filled(block)
        stats.delivered += len(block)
        stats.outside += block.outside
        order = np.argsort(block.keys, kind="stable")
        keys = block.keys[order]
        hits, offsets = self._index.find(keys)
        repeats_previous = keys[1:] == keys[:-1]
        end = self._sink.offset
        if not len(hits) and not repeats_previous.any():
            self._sink.append([block.data])
            self._index.add(keys, block.starts[order] + end)
            stats.rows += len(keys)
            return
        kept = self._first_rows(block, order, keys, repeats_previous, hits, offsets, stats)
        stats.rows += int(np.count_nonzero(kept))
        sizes = np.where(kept, block.ends - block.starts, 0)
        new_offsets = end + np.cumsum(sizes) - sizes
        self._sink.append(_kept_spans(block, kept))
        order = order[kept[order]]
        self._index.add(block.keys[order], new_offsets[order])

    def _first_rows(
        self,
        block: Block,
        order: Positions,
        keys: Keys,
        repeats_previous: NDArray[np.bool_],
        hits: Positions,
        offsets: Positions,
        stats: PartStats,
    ) -> NDArray[np.bool_]:
        """Return which rows of the block are the first of their id, by comparing the rows that share a key."""
        kept = np.ones(len(order), np.bool_)
        data, starts, ends = block.data, block.starts, block.ends
        rows = order[hits]
        same = self._sink.equals(offsets, data, starts[rows], ends[rows])
        kept[order[hits[same]]] = False
        repeated = [offsets[same]]
        is_hit = np.zeros(len(order), np.bool_)
        is_hit[hits] = True
        twins = 1 + np.flatnonzero(repeats_previous & ~is_hit[1:])
        starts_run = np.diff(twins, prepend=-1) != 1
        firsts = (twins[starts_run] - 1)[np.cumsum(starts_run) - 1]
        rows = order[twins]
        same_size = (ends - starts)[rows] == (ends - starts)[order[firsts]]
        equal = np.zeros(len(rows), np.bool_)
        rows = rows[same_size]
        equal[same_size] = equal_in_block(starts[order[firsts][same_size]], data, starts[rows], ends[rows])
        kept[order[twins[equal]]] = False
        stats.duplicates += len(order) - int(np.count_nonzero(kept))
        # The rest is rare: a repeat with other values, or another id with the same key.
        undecided = ~same & kept[order[hits]]
        hits, offsets = hits[undecided], offsets[undecided]
        suspects = _distinct(np.concatenate((hits, twins[~equal], firsts[~equal])))
        groups: dict[int, _SameKey] = {}
        for at in suspects[kept[order[suspects]]].tolist():
            groups.setdefault(int(keys[at]), _SameKey()).rows.append(int(order[at]))
        for hit, offset in zip(hits.tolist(), offsets.tolist(), strict=True):
            groups[int(keys[hit])].offsets.add(offset)
        for group in groups.values():
            distinct: list[int] = []
            for row in group.rows:
                raw = bytes(block.data[block.starts[row] : block.ends[row]])
                first = self._find_first(block, row, raw, group, distinct)
                if first is None:
                    distinct.append(row)
                    continue
                kept[row] = False
                stats.duplicates += 1
                stats.conflicts += first.differs
                if first.differs and self._collects_conflicts:
                    stats.conflicting.append(self._conflict(first.values, self._values_of(raw)))
                if first.offset is not None:
                    repeated.append(np.array([first.offset]))
        stats.earlier += self._count_earlier(np.concatenate(repeated))
        return kept

    def _count_earlier(self, offsets: Positions) -> int:
        """Count the rows of earlier windows at `offsets`, without those counted since the last `keep`."""
        offsets = _distinct(offsets[offsets < self._kept_offset])
        for run in self._earlier:
            offsets = offsets[run[np.minimum(np.searchsorted(run, offsets), len(run) - 1)] != offsets]
        if len(offsets):
            self._earlier.append(offsets)
            while len(self._earlier) > 1 and len(self._earlier[-2]) <= 2 * len(self._earlier[-1]):
                self._earlier[-2:] = [np.sort(np.concatenate(self._earlier[-2:]))]
        return len(offsets)

    def _find_first(self, block: Block, row: int, raw: bytes, group: _SameKey, firsts: list[int]) -> _FirstRow | None:
        """Find the first row with the id of `row`: in the output, or among `firsts` of the same block.

        Returns None if `row` itself is the first.
        """
        key_at = self._sink.columns.index(self._columns.key)
        for offset in group.offsets:
            if self._sink.has_record_at(offset, raw):
                return _FirstRow(False, offset)
            if offset not in group.values_at:  # read once: it may be long, and many rows may be compared with it
                group.values_at[offset] = self._values(self._sink.fields_at(offset))
            first_values = group.values_at[offset]
            if first_values[key_at] == block.id(row):
                return _FirstRow(first_values != self._values_of(raw), offset, first_values)
        for first in firsts:
            if block.id(first) == block.id(row):
                if first not in group.values_of:
                    first_raw = bytes(block.data[block.starts[first] : block.ends[first]])
                    group.values_of[first] = self._values_of(first_raw)
                return _FirstRow(group.values_of[first] != self._values_of(raw), None, group.values_of[first])
        return None

    def _conflict(self, kept: Sequence[bytes], other: Sequence[bytes]) -> Conflict:
        kept_row, other_row = (
            dict(zip(self._sink.columns, map(_text, values), strict=True)) for values in (kept, other)
        )
        return Conflict(kept_row, other_row)

    def _values_of(self, raw: bytes) -> list[bytes]:
        return self._values(next(records([raw], 2))[1])

    def _values(self, fields: list[bytes]) -> list[bytes]:
        """Return the unquoted values of a record, padded to the output's columns.

        A quoted empty field stays quoted, since it differs from an empty one. A row written earlier may lack the
        columns that were added later.
        """
        padded = fields + [b""] * (len(self._sink.columns) - len(fields))
        return [field if field == b'""' else unquote(field) for field in padded]


def _text(value: bytes) -> str | None:
    """The text of a value from `Deduplicator._values`; None if it is an empty cell."""
    return None if not value else "" if value == b'""' else value.decode(errors="replace")


def _distinct(values: Positions) -> Positions:
    """Return the values in order, each once; the first call of `np.unique` imports all of `numpy.ma`."""
    ordered = np.sort(values)
    found: Positions = ordered[np.diff(ordered, prepend=-1) != 0]
    return found


def _kept_spans(block: Block, kept: NDArray[np.bool_]) -> list[bytes | memoryview]:
    """Return the bytes of the rows that are kept, one piece per span of consecutive rows."""
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    starts, ends = block.starts[edges[0::2]], block.ends[edges[1::2] - 1]
    if len(starts) > _MAX_SPANS:
        is_kept_byte = np.repeat(kept, block.ends - block.starts)
        return [np.frombuffer(block.data, np.uint8)[is_kept_byte].tobytes()]
    return [block.data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
