"""The databases that tests of tables write to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tables.places import FILE_KINDS, KINDS, FilePlace, Place
from tests.tables.server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=KINDS, scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Each kind of place where tables can be."""
    kind = KINDS[request.param]
    if kind.needs_server:
        return kind(request.getfixturevalue("postgres").url)
    return kind(str(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(params=FILE_KINDS, scope="module")
def file_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FilePlace:
    """Each kind of place where files and data sets can be."""
    return FILE_KINDS[request.param](str(tmp_path_factory.mktemp(request.param)))
