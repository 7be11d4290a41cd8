"""The output of a pull from the sandbox's own file host."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.servers.pulls import CONFIG, pulled


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out: Path = tmp_path_factory.mktemp("expected") / "activity.csv"
    data, result = anyio.run(pulled, out)
    assert result.rows == CONFIG.rows
    return data
