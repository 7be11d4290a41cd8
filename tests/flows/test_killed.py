"""kill -9 at random moments, again and again, until the pull is through."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from bulkpull import Clickwrap, pull
from bulkpull.pull.journal import Journal
from bulkpull.sandbox import Sandbox, SandboxConfig
from tests.flows import victim

CONFIG = SandboxConfig(
    rows=6000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.1,
    rows_per_file=250,
)
OPTIONS: dict[str, Any] = {
    "start": "2024-01-01",
    "end": "2024-07-01",
    "window": "2w",
    "exports": 5,
    "fields": ["connection_data.page_title", "custom_data.vip"],
}
WINDOWS = 13


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes that an undisturbed pull leaves."""
    out = tmp_path_factory.mktemp("undisturbed") / "a.csv"

    async def main() -> None:
        async with Sandbox(CONFIG) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap:
            result = await pull(clickwrap, out=out, **OPTIONS)
        assert (result.rows, result.windows, result.exports) == (6000, WINDOWS, WINDOWS)

    asyncio.run(main())
    return out.read_bytes()


@pytest.mark.parametrize("seed", range(25))
async def test_a_pull_that_is_killed_until_it_is_through(tmp_path: Path, undisturbed: bytes, seed: int) -> None:
    moments = random.Random(seed)
    out = tmp_path / "a.csv"
    kills = 0
    # Whole parts by export and number, and how often the host had delivered each when they were known to be whole.
    whole: dict[tuple[str, int], int] = {}
    async with Sandbox(CONFIG) as sandbox:
        while True:
            process = victim.PROCESSES.Process(target=victim.run, args=(sandbox.url, CONFIG.token, out, OPTIONS))
            process.start()
            await to_thread.run_sync(process.join, moments.uniform(0.02, 0.7))
            process.kill()
            await to_thread.run_sync(process.join)
            if process.exitcode == 0 or out.exists():
                break
            assert process.exitcode == -9
            kills += 1
            for part in whole_parts(out):
                whole.setdefault(part, sandbox.deliveries[part])
        assert sandbox.seen.exports <= WINDOWS + kills
        assert {part: sandbox.deliveries[part] for part in whole} == whole
        assert sandbox.seen.leaks == 0
    assert out.read_bytes() == undisturbed
    if process.exitcode == 0:
        assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def whole_parts(out: Path) -> list[tuple[str, int]]:
    """The export and the number, from 0, of the files that the journal calls whole."""
    path = out.with_name("a.csv.bulkpull") / "journal.sqlite"
    if not path.exists():
        return []
    journal = Journal(path)
    try:
        return [
            (export.id, part.number - 1)
            for export in journal.exports().values()
            for part in export.parts
            if part.size is not None
        ]
    finally:
        journal.close()
