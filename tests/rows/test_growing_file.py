"""Reading a file while it is written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from bulkpull.rows.growing_file import GrowingFile, Superseded
from tests.waiting import until

COLUMNS = ("id", "v")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,v\n1,a\n2,b\n")
    return path


def read_in_a_thread(file: GrowingFile) -> Callable[[], bytes | BaseException]:
    """Start a reader; return a function that waits for its result."""
    results: list[bytes | BaseException] = []

    def read() -> None:
        try:
            results.append(file.read())
        except Superseded as error:
            results.append(error)

    thread = threading.Thread(target=read)
    thread.start()

    def wait_for_result() -> bytes | BaseException:
        thread.join(10)
        [result] = results
        return result

    return wait_for_result


def test_reads_no_byte_before_it_is_available(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(9, COLUMNS)
    assert growing.read(100) == b"id,v\n1,a\n"
    result = read_in_a_thread(growing)
    growing.advance(13, COLUMNS)
    with path.open("ab") as file:
        file.write(b"3,c\n")
    growing.finish(path)
    assert result() == b"2,b\n3,c\n"
    assert (growing.position, growing.available) == (17, 17)


@pytest.mark.parametrize(
    "supersede",
    [
        GrowingFile.abort,
        lambda growing: growing.advance(13, (*COLUMNS, "w")),
        lambda growing: growing.finish(growing._path.with_name("a.csv.wide")),
    ],
)
def test_superseding_the_file_wakes_a_waiting_reader(path: Path, supersede: Callable[[GrowingFile], None]) -> None:
    path.with_name("a.csv.wide").touch()
    growing = GrowingFile(path)
    growing.advance(9, COLUMNS)
    result = read_in_a_thread(growing)
    supersede(growing)
    assert isinstance(result(), Superseded)


def test_reads_end_where_the_reader_wants_them_to(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(13, COLUMNS)
    growing.stop_at = 9
    assert growing.read(100) == b"id,v\n1,a\n"
    assert growing.read(100) == b""
    growing.stop_at = 13
    assert growing.read(100) == b"2,b\n"


def test_a_wait_for_bytes_ends_in_time(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(9, COLUMNS)
    assert growing.wait_beyond(9, timeout=0.01) == 9


def test_the_writer_waits_for_the_reader_if_it_is_far_ahead(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(13, COLUMNS)
    growing.wait_for_reader(13, lambda: None)  # there is no limit
    growing.max_lead = 5
    waits: list[int] = []

    def read_a_little() -> None:
        waits.append(growing.position)
        growing.read(5)

    growing.wait_for_reader(13, read_a_little)
    assert waits == [0, 5]
    growing.seek(0)
    growing.abort()
    growing.wait_for_reader(13, read_a_little)
    assert waits == [0, 5]


def test_it_knows_which_columns_have_superseded_it(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(0, ("id",))  # nothing is written yet
    growing.advance(9, COLUMNS)
    growing.advance(13, COLUMNS)
    assert growing.read(100) == b"id,v\n1,a\n2,b\n"
    growing.advance(13, (*COLUMNS, "w"))
    assert growing.added_columns == ("w",)
    with pytest.raises(Superseded):
        growing.read(1)


def test_a_span_ends_where_the_available_rows_do(path: Path) -> None:
    growing = GrowingFile(path)
    waits = 0

    def on_wait() -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            growing.advance(13, COLUMNS)
        elif waits == 4:
            growing.finish(path)

    growing.advance(9, COLUMNS)
    assert [span.read(100) + span.read(100) for span in growing.spans(on_wait, 0.001)] == [b"id,v\n1,a\n", b"2,b\n"]
    assert waits == 4


def test_spans_end_when_the_file_is_superseded(path: Path) -> None:
    growing = GrowingFile(path)
    growing.advance(9, COLUMNS)
    spans = growing.spans(growing.abort, 0.001)
    assert next(spans).read(100) == b"id,v\n1,a\n"
    with pytest.raises(Superseded):
        next(spans)


async def test_hashes_bytes_again_that_were_removed(path: Path) -> None:
    growing, found = GrowingFile(path), []
    growing.advance(5, COLUMNS)

    def hash_all() -> None:
        found.append(growing.sha256(lambda: None))

    def replace(start: int, data: bytes) -> None:
        growing.remove(start)
        with path.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            file.write(data)
        growing.append(start + len(data))

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, hash_all)
        growing.append(13)
        await until(lambda: growing.position == 13)
        replace(5, b"7,x\n8,y\n9,z\n")
        await until(lambda: growing.position == 17)
        growing.advance(9, COLUMNS)
        replace(9, b"8,z\n9,z\n")
        growing.advance(13, COLUMNS)
        await until(lambda: growing.position == 17)
        replace(13, b"")
        growing.finish(path)
    assert found == [hashlib.sha256(b"id,v\n7,x\n8,z\n").hexdigest()]
