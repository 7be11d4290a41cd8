"""Durability: the strongest sync that the system and the file system have."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bulkpull.disk import sync_file

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
