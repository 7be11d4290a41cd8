"""The heart of the merge: parts go in one after another, each id comes out once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bulkpull.rows.cells import has_value
from bulkpull.rows.records import CsvError, records, value
from bulkpull.rows.scan import Ahead, Block, Keys, Layout, Positions, Scanner, layout_of, read_header
from bulkpull.rows.seen import Seen
from bulkpull.rows.sink import CsvSink
from bulkpull.source import Columns

_MANY_SPANS = 4096  # in a block: that many pieces are copied together rather than written one by one
_READ_BACK = 64 * 1024  # bytes of the output that are read together


@dataclass(slots=True)
class Merged:
    """What came of one part; `missing` and `unasked` are columns, the rest rows.

    `delivered` are the records that stand in the file. `earlier` counts the ids that an earlier window had delivered
    already, each once a window: `rows + earlier` of a window's parts is how many ids the window has.
    """

    delivered: int = 0
    rows: int = 0
    earlier: int = 0
    duplicates: int = 0
    conflicts: int = 0
    outside: int = 0
    missing: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


@dataclass(slots=True)
class _Alike:
    """What has the same key: rows of a block, and earlier rows by where they stand; values of both, once they are
    read."""

    rows: list[int] = field(default_factory=list)
    places: set[int] = field(default_factory=set)
    at_place: dict[int, list[bytes]] = field(default_factory=dict)
    of_row: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _First:
    """The first row of an id, beside one that came again: whether that differs, and where it stands, unless that is in
    the same block."""

    differs: bool
    place: int | None = None


class Deduplicator:
    """Writes the first row of each id to `sink`, in the order in which the parts are added.

    The ids that were seen take `memory` bytes; beyond that they are beside the sink's file. What was added since the
    last `keep` can be rolled back.
    """

    def __init__(self, sink: CsvSink, memory: int, columns: Columns) -> None:
        self._sink = sink
        self._columns = columns
        self._scanner = Scanner()
        self._ahead = Ahead()
        # One thread for all blocks: what was freed is kept for the thread that had it, and threads would add up.
        self._thread = ThreadPoolExecutor(1, "merge")
        self._seen = Seen(sink.path.parent, memory)
        self._kept_offset = 0
        self._earlier: list[Positions] = []  # where ids stand that came again since the last `keep`: sorted runs
        self._filled = np.zeros(0, np.bool_)  # which columns have a value in any row
        self._kept_filled = self._filled

    def restore(self, checkpoint: Callable[[], None]) -> None:
        """Learns the ids of the rows that stand in the sink from an earlier run."""
        with self._sink.reader() as file:
            if self._sink.offset:
                columns, place = read_header(file, checkpoint, self._columns.key)
                if not columns:
                    raise CsvError(1, "there is no header")
                layout = Layout(width=None, key_at=columns.index(self._columns.key))

                def learn(block: Block) -> None:
                    nonlocal place
                    self._look_for_values(block)
                    order = np.argsort(block.keys, kind="stable")
                    self._seen.add(block.keys[order], block.starts[order] + place)
                    place += int(block.ends[-1])

                self._each(self._scanner.blocks(file, place, layout, b"", b""), learn, checkpoint)
        self.keep()

    def add(self, path: Path, start: bytes, end: bytes, checkpoint: Callable[[], None]) -> Merged:
        """Merges the CSV at `path`; rows whose time is outside [start, end) are counted.

        `start` and `end` are 24-character instants. `checkpoint` is called now and then, and may raise to stop. A file
        may be empty, without a header even: that merges nothing.
        Raises CsvError for what is no CSV with the key column, and for ragged rows.
        """
        with path.open("rb", buffering=0) as file:
            columns, body = read_header(file, checkpoint, self._columns.key)
            if not columns:
                return Merged()
            self._sink.adopt(columns)
            theirs, ours = frozenset(columns), frozenset(self._sink.columns)
            merged = Merged(
                missing=tuple(column for column in self._sink.columns if column not in theirs),
                unasked=tuple(column for column in columns if column not in ours),
            )
            layout = layout_of(columns, self._sink.columns, self._columns)
            found = self._scanner.blocks(file, body, layout, start, end)
            self._each(found, partial(self._merge, merged=merged), checkpoint)
        return merged

    def keep(self) -> None:
        """What was added stays."""
        self._thread.submit(self._seen.keep).result()
        self._kept_offset = self._sink.offset
        self._kept_filled = self._filled
        self._earlier.clear()

    def roll_back(self, offset: int, columns: Sequence[str]) -> None:
        """Forgets what was added since the last `keep`, when the sink's offset and columns were these."""
        self._seen.forget_fresh()
        self._sink.cut(offset, columns)
        self._filled = self._kept_filled
        self._earlier.clear()

    def empty_columns(self) -> tuple[str, ...]:
        """The columns that no row has a value in, be it that of a quoted empty field; none where there are no rows."""
        if not self._filled.any():
            return ()
        filled = frozenset(np.flatnonzero(self._filled).tolist())
        return tuple(column for at, column in enumerate(self._sink.columns) if at not in filled)

    def close(self) -> None:
        """Lets go of the ids, and ends what helps."""
        self._ahead.close()
        self._thread.shutdown()
        self._seen.close()

    def _each(self, found: Generator[Block], work: Callable[[Block], None], checkpoint: Callable[[], None]) -> None:
        """Does `work` on each block in the merge's thread, while the next one is found."""
        with closing(self._ahead.blocks(found)) as blocks:
            for block in blocks:
                checkpoint()
                self._thread.submit(work, block).result()

    def _look_for_values(self, block: Block) -> None:
        """Learns which columns are filled that were empty so far."""
        width = block.separators.shape[1]
        if len(self._filled) < width:
            self._filled = np.pad(self._filled, (0, width - len(self._filled)))
        empty = np.flatnonzero(~self._filled[:width])
        if len(empty) and len(found := empty[has_value(block, empty).any(axis=0)]):
            self._filled = self._filled.copy()  # what is kept stays as it is
            self._filled[found] = True

    def _merge(self, block: Block, merged: Merged) -> None:
        # A row that is passed over as a repeat has the values of one that stays, but where it is a conflict.
        self._look_for_values(block)
        merged.delivered += len(block)
        merged.outside += block.outside
        order = np.argsort(block.keys, kind="stable")
        keys = block.keys[order]
        hits, places = self._seen.find(keys)
        as_before = keys[1:] == keys[:-1]
        offset = self._sink.offset
        if not len(hits) and not as_before.any():
            self._sink.append([block.data])
            self._seen.add(keys, block.starts[order] + offset)
            merged.rows += len(keys)
            return
        kept = self._first_rows(block, order, keys, as_before, hits, places, merged)
        merged.rows += int(np.count_nonzero(kept))
        sizes = np.where(kept, block.ends - block.starts, 0)
        stands_at = offset + np.cumsum(sizes) - sizes
        self._sink.append(_pieces(block, kept))
        order = order[kept[order]]
        self._seen.add(block.keys[order], stands_at[order])

    def _first_rows(
        self,
        block: Block,
        order: Positions,
        keys: Keys,
        as_before: NDArray[np.bool_],
        hits: Positions,
        places: Positions,
        merged: Merged,
    ) -> NDArray[np.bool_]:
        """Which rows of the block are the first of their id: those whose keys are equal are compared."""
        kept = np.ones(len(order), np.bool_)
        data = bytes(block.data)
        same = self._same(block, data, order[hits], places)
        kept[order[hits[same]]] = False
        found = [places[same]]
        seen = np.zeros(len(order), np.bool_)
        seen[hits] = True
        twins = 1 + np.flatnonzero(as_before & ~seen[1:])
        begins = np.diff(twins, prepend=-1) != 1
        firsts = (twins[begins] - 1)[np.cumsum(begins) - 1]
        equal = _equal_rows(block, data, order[twins], order[firsts])
        kept[order[twins[equal]]] = False
        merged.duplicates += len(order) - int(np.count_nonzero(kept))
        # What is left is rare: other values, or another id with the same key.
        left = ~same & kept[order[hits]]
        hits, places = hits[left], places[left]
        suspects = np.unique(np.concatenate((hits, twins[~equal], firsts[~equal])))
        alike: dict[int, _Alike] = {}
        for at in suspects[kept[order[suspects]]].tolist():
            alike.setdefault(int(keys[at]), _Alike()).rows.append(int(order[at]))
        for hit, place in zip(hits.tolist(), places.tolist(), strict=True):
            alike[int(keys[hit])].places.add(place)
        for group in alike.values():
            distinct: list[int] = []
            for row in group.rows:
                raw = bytes(block.data[block.starts[row] : block.ends[row]])
                first = self._first(block, row, raw, group, distinct)
                if first is None:
                    distinct.append(row)
                    continue
                kept[row] = False
                merged.duplicates += 1
                merged.conflicts += first.differs
                if first.place is not None:
                    found.append(np.array([first.place]))
        merged.earlier += self._count_earlier(np.concatenate(found))
        return kept

    def _count_earlier(self, places: Positions) -> int:
        """How many rows of earlier windows stand at `places`, but for those counted since the last `keep`."""
        places = np.unique(places[places < self._kept_offset])
        for run in self._earlier:
            places = places[run[np.minimum(np.searchsorted(run, places), len(run) - 1)] != places]
        if len(places):
            self._earlier.append(places)
            while len(self._earlier) > 1 and len(self._earlier[-2]) <= 2 * len(self._earlier[-1]):
                self._earlier[-2:] = [np.sort(np.concatenate(self._earlier[-2:]))]
        return len(places)

    def _same(self, block: Block, data: bytes, rows: Positions, places: Positions) -> NDArray[np.bool_]:
        """Whether each of `rows` stands at the place beside it already, byte for byte."""
        by_place = np.argsort(places)
        rows, there = rows[by_place], places[by_place].tolist()
        found: list[bool] = []
        begin, read = 0, b""
        for place, at, to in zip(there, block.starts[rows].tolist(), block.ends[rows].tolist(), strict=True):
            if place + to - at > begin + len(read):
                # What stands close by is likely to be asked for next.
                near = bisect_left(there, place + _READ_BACK, lo=len(found))
                begin, read = place, self._sink.read(place, max(to - at, there[near - 1] + to - at - place))
            found.append(read[place - begin : place - begin + to - at] == data[at:to])
        same = np.empty(len(rows), np.bool_)
        same[by_place] = found
        return same

    def _first(self, block: Block, row: int, raw: bytes, group: _Alike, firsts: list[int]) -> _First | None:
        """The first row of a row's id, which stands at one of the group's places or is one of `firsts` in the same
        block; None where it is that itself."""
        key_at = self._sink.columns.index(self._columns.key)
        for place in group.places:
            if self._sink.stands_at(place, raw):
                return _First(False, place)
            if place not in group.at_place:  # it may be long, and many may be compared with it
                group.at_place[place] = self._values(self._sink.fields_at(place))
            first_values = group.at_place[place]
            if first_values[key_at] == block.id(row):
                return _First(first_values != self._values_of(raw), place)
        for first in firsts:
            if block.id(first) == block.id(row):
                if first not in group.of_row:
                    first_raw = bytes(block.data[block.starts[first] : block.ends[first]])
                    group.of_row[first] = self._values_of(first_raw)
                return _First(group.of_row[first] != self._values_of(raw))
        return None

    def _values_of(self, raw: bytes) -> list[bytes]:
        return self._values(next(records([raw], 2))[1])

    def _values(self, fields: list[bytes]) -> list[bytes]:
        """The values of a record, quoting aside; an empty value and a quoted empty one are not the same. A row kept
        earlier may lack columns that came later."""
        padded = fields + [b""] * (len(self._sink.columns) - len(fields))
        return [field if field == b'""' else value(field) for field in padded]


def _equal_rows(block: Block, data: bytes, rows: Positions, others: Positions) -> NDArray[np.bool_]:
    """Whether each of `rows` is, byte for byte, what the one of `others` beside it is."""
    spans = (edges[some].tolist() for some in (rows, others) for edges in (block.starts, block.ends))
    equal = (data[at:to] == data[begin:end] for at, to, begin, end in zip(*spans, strict=True))
    return np.fromiter(equal, np.bool_, len(rows))


def _pieces(block: Block, kept: NDArray[np.bool_]) -> list[bytes | memoryview]:
    """The bytes of the rows that are kept."""
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    first, behind = block.starts[edges[0::2]], block.ends[edges[1::2] - 1]
    if len(first) > _MANY_SPANS:
        of_kept = np.repeat(kept, block.ends - block.starts)
        return [np.frombuffer(block.data, np.uint8)[of_kept].tobytes()]
    return [block.data[begin:end] for begin, end in zip(first.tolist(), behind.tolist(), strict=True)]
