"""Pulls whose files come from servers that others wrote: two S3 servers, and nginx with its secure_link module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import pulls
from tests.servers.running import FileServer, installed, moto, nginx, seaweedfs

WITH_NGINX = pytest.mark.skipif(
    not installed("nginx"), reason="nginx is not installed; on Debian: apt-get install nginx"
)
NGINX = pytest.param(nginx, marks=WITH_NGINX, id="nginx")
MOTO = pytest.param(moto, id="moto")
SEAWEEDFS = pytest.param(seaweedfs, id="seaweedfs")
every_server = pytest.mark.parametrize("server", [MOTO, NGINX, SEAWEEDFS], indirect=True, scope="module")
# moto does not enforce the expiry of links.
every_server_with_expiry = pytest.mark.parametrize("server", [NGINX, SEAWEEDFS], indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[FileServer]:
    with request.param() as running:
        yield running


@every_server
async def test_plain_pull_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_plain_pull_is_complete(server, tmp_path / "activity.csv", expected)


@every_server
async def test_pull_is_complete_despite_cut_transfers(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_cut_pull_is_complete(server, tmp_path / "activity.csv", expected)


@every_server
async def test_one_file_in_several_streams_is_complete(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_one_file_in_several_streams_is_complete(server, tmp_path / "activity.csv", expected)


@every_server_with_expiry
async def test_pull_is_complete_despite_expired_links(server: FileServer, tmp_path: Path, expected: bytes) -> None:
    await pulls.assert_pull_survives_expired_links(server, tmp_path / "activity.csv", expected)
