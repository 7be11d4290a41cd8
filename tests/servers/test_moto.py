"""Pulls whose files come from moto's S3 server, which does not enforce the expiry of links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import pulls
from tests.servers.running import FileServer, moto


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with moto() as running:
        yield running


async def test_plain_pull_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_plain_pull_is_complete(server, tmp_path / "activity.csv", expected)


async def test_pull_is_complete_despite_cut_transfers(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_cut_pull_is_complete(server, tmp_path / "activity.csv", expected)


async def test_one_file_in_several_streams_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_one_file_in_several_streams_is_complete(server, tmp_path / "activity.csv", expected)
