"""Pulls whose files come from the S3 of SeaweedFS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import pulls
from tests.servers.running import FileServer, seaweedfs


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with seaweedfs() as running:
        yield running


async def test_plain_pull_is_whole(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_plain_pull_is_whole(server, tmp_path / "activity.csv", expected)


async def test_pull_is_whole_though_transfers_are_cut(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_cut_pull_is_whole(server, tmp_path / "activity.csv", expected)


async def test_pull_is_whole_though_links_expire(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_pull_outlives_its_links(server, tmp_path / "activity.csv", expected)


async def test_one_file_in_several_streams_is_whole(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_one_file_in_several_streams_is_whole(server, tmp_path / "activity.csv", expected)
