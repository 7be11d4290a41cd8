"""A file that is read while it grows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkpull.rows.follow import Followed, Superseded

COLUMNS = ("id", "v")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,v\n1,a\n2,b\n")
    return path


def read_in_a_thread(followed: Followed) -> Callable[[], bytes | BaseException]:
    """Begins to read; what comes of it is there when the reading ends."""
    came: list[bytes | BaseException] = []

    def read() -> None:
        try:
            came.append(followed.read())
        except Superseded as error:
            came.append(error)

    thread = threading.Thread(target=read)
    thread.start()

    def outcome() -> bytes | BaseException:
        thread.join(10)
        [found] = came
        return found

    return outcome


def test_no_byte_is_read_before_it_stands(path: Path) -> None:
    followed = Followed(path)
    followed.reach(9, COLUMNS)
    assert followed.read(100) == b"id,v\n1,a\n"
    outcome = read_in_a_thread(followed)
    followed.reach(13, COLUMNS)
    with path.open("ab") as file:
        file.write(b"3,c\n")
    followed.end(path)
    assert outcome() == b"2,b\n3,c\n"
    assert (followed.position, followed.reached) == (17, 17)


@pytest.mark.parametrize(
    "supersede",
    [
        Followed.stop,
        lambda followed: followed.reach(13, (*COLUMNS, "w")),
        lambda followed: followed.end(followed._path.with_name("a.csv.wide")),
    ],
)
def test_reading_ends_where_there_is_no_use_in_it(path: Path, supersede: Callable[[Followed], None]) -> None:
    path.with_name("a.csv.wide").touch()
    followed = Followed(path)
    followed.reach(9, COLUMNS)
    outcome = read_in_a_thread(followed)
    supersede(followed)
    assert isinstance(outcome(), Superseded)
    followed.close()
