"""Durability: the strongest sync that the system and the file system have."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bulkpull.disk import replacing, sync_file
from bulkpull.errors import OutputError

FULL_SYNC = 51


@pytest.mark.parametrize("known", [True, False])
def test_where_fsync_stops_at_the_cache_of_the_disk_the_full_sync_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    synced: list[str] = []

    def full_sync(_file: int, command: int) -> int:
        assert command == FULL_SYNC
        if not known:
            raise OSError(45, "Operation not supported")
        synced.append("full")
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL_SYNC, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", lambda _file: synced.append("fsync"))
    with (tmp_path / "file").open("wb") as file:
        sync_file(file.fileno())
    assert synced == ["full" if known else "fsync"]


def test_elsewhere_it_is_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        sync_file(file.fileno())
        assert synced == [file.fileno()]


def test_an_error_of_the_disk_is_raised(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        closed = os.dup(file.fileno())
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_file(closed)


def test_a_replaced_file_is_whole_or_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("former")
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:
        draft.write_text("new")
        raise ZeroDivisionError
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("list", "former")]
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "former"
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("list", "new")]


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    path, precious = tmp_path / "list", tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / ".list.partial").symlink_to(precious)
    with replacing(path) as draft:
        draft.write_text("new")
    assert (precious.read_text(), path.read_text(), path.is_symlink()) == ("kept", "new", False)


def test_a_file_without_a_directory_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*/missing/list: No such file"),
        replacing(tmp_path / "missing" / "list"),
    ):
        pass
