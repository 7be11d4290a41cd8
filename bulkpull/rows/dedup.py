"""The heart of the merge: parts go in one after another, each id comes out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bulkpull.rows.records import ID, CsvError, blocks, read_columns, records, value
from bulkpull.rows.sink import CsvSink

CREATED = "created_time"
_SHARD_BITS = 10
_MAX_REPEATS = 8 * 1024 * 1024  # bytes of repeated rows kept until they are compared


@dataclass(slots=True)
class Merged:
    """What came of one part; `missing` and `unasked` are columns, the rest rows."""

    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    outside: int = 0
    missing: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


class Deduplicator:
    """Writes the first row of each id to `sink`, in the order in which the parts are added."""

    def __init__(self, sink: CsvSink) -> None:
        self._sink = sink
        # Id to where its row stands in the sink. One dict would hold the interpreter lock, and with it the caller's
        # event loop, for as long as it takes to grow; many small ones grow in small steps. An id's shard comes from
        # high bits of its hash, since a dict goes by the low ones.
        self._shards: tuple[dict[bytes, int], ...] = tuple({} for _ in range(1 << _SHARD_BITS))
        self._repeats: list[tuple[int, bytes]] = []
        self._repeats_size = 0

    def restore(self, checkpoint: Callable[[], None]) -> None:
        """Learns the ids of the rows that stand in the sink from an earlier run."""
        shards, shard_mask, id_at = self._shards, len(self._shards) - 1, self._sink.columns.index(ID)
        for offset, fields in self._sink.rows(checkpoint):
            key = value(fields[id_at])
            shards[hash(key) >> 40 & shard_mask][key] = offset

    def roll_back(self, offset: int, columns: Sequence[str]) -> None:
        """Forgets the rows from `offset` on, and cuts them off the sink, whose columns were `columns` then."""
        self._repeats.clear()
        self._repeats_size = 0
        for shard in self._shards:
            for key in [key for key, at in shard.items() if at >= offset]:
                del shard[key]
        self._sink.cut(offset, columns)

    def add(self, path: Path, start: bytes, end: bytes, checkpoint: Callable[[], None]) -> Merged:
        """Merges the CSV at `path`; rows whose created_time is outside [start, end) are counted.

        `start` and `end` are 24-character instants. `checkpoint` is called now and then, and may raise to stop.
        Raises CsvError for what is no CSV with an id column, and for ragged rows.
        """
        sink, shards, shard_mask = self._sink, self._shards, len(self._shards) - 1
        with path.open("rb") as file:
            rows = records(blocks(file, checkpoint))
            columns = read_columns(rows)
            sink.adopt(columns)
            width, id_at = len(columns), columns.index(ID)
            created_at = columns.index(CREATED) if CREATED in columns else None
            order = None if list(columns) == sink.columns else _order(columns, sink.columns)
            merged = Merged(
                missing=tuple(column for column in sink.columns if column not in columns),
                unasked=tuple(column for column in columns if column not in sink.columns),
            )
            for row, (raw, fields) in enumerate(rows, start=2):
                if len(fields) != width:
                    raise CsvError(row, f"{len(fields)} fields where the header has {width}")
                key = fields[id_at]
                if key.startswith(b'"'):
                    key = value(key)
                if not key:
                    raise CsvError(row, "the id is empty")
                if created_at is not None:
                    created = fields[created_at]
                    usual = len(created) == 24 and created[23:] == b"Z"
                    if not (usual and start <= created < end) and _is_outside(created, start, end):
                        merged.outside += 1
                if order is not None:
                    raw = b",".join([b"" if at is None else fields[at] for at in order])
                offset = sink.offset
                first = shards[hash(key) >> 40 & shard_mask].setdefault(key, offset)
                if first == offset:
                    sink.write(raw)
                    merged.rows += 1
                else:
                    merged.duplicates += 1
                    self._repeats.append((first, raw))
                    self._repeats_size += len(raw) + 64
                    if self._repeats_size > _MAX_REPEATS:
                        merged.conflicts += self._compare_repeats()
        merged.conflicts += self._compare_repeats()
        return merged

    def forget(self) -> None:
        """Lets go of the ids, shard by shard, so that no other thread waits long for it."""
        for shard in self._shards:
            shard.clear()

    def _compare_repeats(self) -> int:
        """How many of the repeated rows differ from the row that was kept."""
        if not self._repeats:
            return 0
        self._sink.flush()
        conflicts = sum(
            not self._sink.stands_at(offset, raw) and not self._equal(self._sink.fields_at(offset), raw)
            for offset, raw in self._repeats
        )
        self._repeats.clear()
        self._repeats_size = 0
        return conflicts

    def _equal(self, kept: list[bytes], raw: bytes) -> bool:
        _, repeat = next(records([raw]))
        width = len(self._sink.columns)  # a row kept earlier may lack columns that came later
        return _values(kept, width) == _values(repeat, width)


def _values(fields: list[bytes], width: int) -> list[bytes]:
    """The values of a record, quoting aside; an empty value and a quoted empty one are not the same."""
    padded = fields + [b""] * (width - len(fields))
    return [field if field == b'""' else value(field) for field in padded]


def _order(columns: tuple[str, ...], wanted: list[str]) -> list[int | None]:
    """Where each wanted column stands among `columns`."""
    return [columns.index(column) if column in columns else None for column in wanted]


def _is_outside(created: bytes, start: bytes, end: bytes) -> bool:
    """Whether an instant, however written, lies outside [start, end); what is no instant counts as inside."""
    try:
        first, moment, last = (datetime.fromisoformat(value(text).decode()) for text in (start, created, end))
    except ValueError:
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return not first <= moment < last
