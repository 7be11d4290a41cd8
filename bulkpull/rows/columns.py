"""The columns of a block, as Arrow lays them out in memory: offsets, bytes, and a bitmap of what is not null."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulkpull.errors import FormatError
from bulkpull.record import record
from bulkpull.rows import kernel
from bulkpull.rows.block import Block, Bytes
from bulkpull.rows.cells import PADDING, cell_values, confirm_utf8
from bulkpull.rows.instants import nanoseconds

_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999  # milliseconds: the years 1 to 9999, which all readers support
_USUAL_FORMS = (b"0000-00-00T00:00:00.000Z", b"0000-00-00T00:00:00Z")  # 0 stands for any digit
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@record
class Column:
    """`rows` values, which start at index `first` of the buffers.

    Texts have `offsets` into `data`, which is UTF-8. Without `offsets` the values are instants: `data` holds
    milliseconds from 1970 as int64. `validity` has a bit for each value, 0 for null; None if there is no null.
    """

    rows: int
    first: int
    validity: Bytes | None
    offsets: NDArray[np.int32] | None
    data: NDArray[Any]

    @property
    def buffers(self) -> list[NDArray[Any] | None]:
        """The buffers in Arrow's order."""
        return [self.validity, self.data] if self.offsets is None else [self.validity, self.offsets, self.data]

    @property
    def is_null(self) -> NDArray[np.bool_]:
        """Whether each value is null."""
        if self.validity is None:
            return np.zeros(self.rows, np.bool_)
        found: NDArray[np.bool_] = np.unpackbits(self.validity, bitorder="little").astype(np.bool_)
        return ~found[self.first : self.first + self.rows]

    def to_list(self) -> list[str | datetime | None]:
        """Return the values as Python objects."""
        nulls = self.is_null.tolist()
        if self.offsets is None:
            instants = self.data[self.first : self.first + self.rows].tolist()
            return [
                None if null else _EPOCH + timedelta(milliseconds=instant)
                for instant, null in zip(instants, nulls, strict=True)
            ]
        ends = self.offsets[self.first : self.first + self.rows + 1]
        data = self.data[ends[0] : ends[-1]].tobytes()
        spans = pairwise((ends - ends[0]).tolist())
        if data.isascii():
            text = data.decode()
            values = [text[start:end] for start, end in spans]
        else:
            values = [data[start:end].decode() for start, end in spans]
        return [None if null else value for value, null in zip(values, nulls, strict=True)]


@record
class Shape:
    """The columns of a table: their names, and which of them holds instants, if any.

    `instants_in` names the format that needs instants, for error messages, and `remedy` says what to do instead.
    """

    names: tuple[str, ...]
    time_at: int | None
    instants_in: str = ""
    remedy: str = ""


def columns_of(block: Block, shape: Shape, row: int) -> list[Column]:
    """Return the columns of a block, whose first record is row number `row`.

    Raises FormatError for text that is not valid UTF-8, and for a time that is not an instant in whole milliseconds.
    """
    confirm_utf8(block, shape.names, row)
    found = _texts(block) if kernel.KERNEL is None else _by_kernel(block, shape.time_at)
    if shape.time_at is not None and found[shape.time_at].offsets is not None:
        found[shape.time_at] = _instants(found[shape.time_at], block, shape, row)
    return found


def _by_kernel(block: Block, time_at: int | None) -> list[Column]:
    """Return texts, and instants for the times if all of them are in canonical form."""
    rows, width = block.separators.shape
    offsets = np.empty(width * (rows + 1), np.int32)
    validity = np.empty(-(-width * rows // 8), np.uint8)
    texts = np.empty(len(block.data) + width * PADDING, np.uint8)
    instants = np.empty(rows, np.int64)
    instant_validity = np.empty(-(-rows // 8), np.uint8)
    nulls, has_instants = kernel.KERNEL.columns(
        block.data,
        np.ascontiguousarray(block.separators, np.int32),
        width,
        -1 if time_at is None else time_at,
        offsets,
        validity,
        texts,
        instants,
        instant_validity,
    )
    # A column starts at bit `at * rows` and at offset `at * (rows + 1)`: of these, `at * rows` are skipped as well.
    columns = [Column(rows, at * rows, validity, offsets[at:], texts) for at in range(width)]
    if has_instants:
        assert time_at is not None
        times = Column(rows, 0, instant_validity, None, instants)
        columns[time_at] = times if nulls and times.is_null.any() else replace(times, validity=None)
    return columns


def _texts(block: Block) -> list[Column]:
    values = cell_values(block)
    width = block.separators.shape[1]
    columns: list[Column] = []
    for at in range(width):
        starts, sizes = values.starts[at::width], (values.ends - values.starts)[at::width]
        offsets = np.zeros(len(block) + 1, np.int32)
        np.cumsum(sizes, out=offsets[1:])
        # Byte i of a value that starts at `start`, and whose column has `offset` bytes before it, goes to offset + i.
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        validity = np.packbits(~values.is_null[at::width], bitorder="little")
        columns.append(Column(len(block), 0, validity, offsets, values.data[places]))
    return columns


def _instants(texts: Column, block: Block, shape: Shape, row: int) -> Column:
    """Convert texts to instants. Raises FormatError for the first that is not an instant in whole milliseconds."""
    is_null = texts.is_null
    validity = np.packbits(~is_null, bitorder="little") if is_null.any() else None
    instants = np.zeros(texts.rows, np.int64)
    found = _uniform_instants(texts, is_null)
    if found is not None:
        instants[~is_null] = found
    else:
        for at, text in enumerate(texts.to_list()):
            if isinstance(text, str):
                milliseconds, reason = _milliseconds(text.encode())
                if reason:
                    raise _instant_error(block, at, shape, row, text, reason)
                instants[at] = milliseconds
    return Column(texts.rows, 0, validity, None, instants)


def _uniform_instants(texts: Column, is_null: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return the instants that are not null, if all have one of the usual forms; None otherwise."""
    assert texts.offsets is not None
    offsets = texts.offsets[texts.first : texts.first + texts.rows + 1]
    sizes = np.diff(offsets)[~is_null]
    for form in _USUAL_FORMS:
        if len(sizes) and (sizes == len(form)).all():
            characters = texts.data[offsets[0] : offsets[-1]].reshape(-1, len(form))
            pattern = np.frombuffer(form, np.uint8)
            is_digit = pattern == ord("0")
            digits = characters[:, is_digit]
            if (characters[:, ~is_digit] == pattern[~is_digit]).all() and ((digits >= 48) & (digits <= 57)).all():
                without_zone = np.ascontiguousarray(characters[:, :-1]).view(f"S{len(form) - 1}")
                try:
                    found = without_zone.reshape(-1).astype("M8[ms]").astype(np.int64)
                except ValueError:  # there is no such date
                    return None
                return found if found.min() >= _FIRST else None
    return None


def _milliseconds(text: bytes) -> tuple[int, str]:
    """Return an instant, and why the text is none; the reason is empty if it is one."""
    moment = nanoseconds(text)
    if moment is None:
        return 0, "is not an instant with a date, a time and an offset"
    milliseconds, finer = divmod(moment, 1_000_000)
    if finer:
        return 0, "is not an instant in whole milliseconds"
    if not _FIRST <= milliseconds <= _LAST:
        return 0, "is not within the years 1 to 9999 in UTC"
    return milliseconds, ""


def _instant_error(block: Block, at: int, shape: Shape, row: int, text: str, reason: str) -> FormatError:
    assert shape.time_at is not None
    id, column = block.id(at).decode(errors="replace"), shape.names[shape.time_at]
    return FormatError(
        row + at, id, f"{column} {text[:100]!r} {reason}, which {shape.instants_in} require; {shape.remedy}"
    )
