"""Reading a file while it is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkpull.rows.growing_file import GrowingFile, Superseded

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
