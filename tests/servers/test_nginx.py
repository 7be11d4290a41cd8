"""Pulls whose files come from nginx, with links of its secure_link module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import pulls
from tests.servers.running import FileServer, installed, nginx

pytestmark = pytest.mark.skipif(
    not installed("nginx"), reason="nginx is not installed; on Debian: apt-get install nginx"
)


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with nginx() as running:
        yield running


async def test_plain_pull_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_plain_pull_is_complete(server, tmp_path / "activity.csv", expected)


async def test_pull_is_complete_despite_cut_transfers(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_cut_pull_is_complete(server, tmp_path / "activity.csv", expected)


async def test_pull_is_complete_despite_expired_links(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_pull_survives_expired_links(server, tmp_path / "activity.csv", expected)


async def test_one_file_in_several_streams_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_one_file_in_several_streams_is_complete(server, tmp_path / "activity.csv", expected)
