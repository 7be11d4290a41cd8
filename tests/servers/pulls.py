"""Pulls whose files come from a third-party server, over a good and a bad network, with expiring links."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from bulkpull import Clickwrap, Result, RetryPolicy, pull
from bulkpull.sandbox import Sandbox, SandboxConfig
from tests.servers.proxy import proxied
from tests.servers.running import FileServer

CONFIG = SandboxConfig(
    rows=60_000,
    seed=11,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.05,
    rows_per_file=2_400,  # about 300 kB
)
OPTIONS: dict[str, Any] = {
    "start": "2024-01-01",
    "end": "2024-07-01",
    "window": "1mo",
    "fields": ["event_type", "connection_data.page_title", "connection_data.user_agent"],
}
WINDOWS = 6
RETRY = RetryPolicy(base=0.02, cap=0.2, seconds=60.0)
CUT_WITHIN = 500_000  # bytes per connection, so that a pull needs many connections
ENDS_WITHIN = 150.0  # seconds


async def pulled(out: Path, config: SandboxConfig = CONFIG, **options: Any) -> tuple[bytes, Result]:
    """Pull all rows from a sandbox; return the output's bytes and the result."""
    async with Sandbox(config) as sandbox:
        async with Clickwrap(CONFIG.token, base_url=sandbox.url, retry=RETRY) as clickwrap:
            with anyio.fail_after(ENDS_WITHIN):
                result = await pull(clickwrap, out=out, **OPTIONS | options)
        assert sandbox.stats.downloads == 0 or not config.store
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.manifest.json"]
    return out.read_bytes(), result


async def assert_plain_pull_is_complete(server: FileServer, out: Path, expected: bytes) -> None:
    data, result = await pulled(out, replace(CONFIG, store=server.store(server.url)))
    assert data == expected
    assert (result.rows, result.exports, result.retries) == (CONFIG.rows, WINDOWS, 0)


async def assert_cut_pull_is_complete(server: FileServer, out: Path, expected: bytes) -> None:
    async with proxied(server.port, cut_within=CUT_WITHIN) as proxy:
        data, result = await pulled(out, replace(CONFIG, store=server.store(proxy.url)))
    assert data == expected
    assert result.exports == WINDOWS  # a cut costs a request, but no export
    assert proxy.cuts >= 10
    assert proxy.statuses[206] > 0  # resumed


async def assert_pull_survives_expired_links(server: FileServer, out: Path, expected: bytes) -> None:
    """Some connections reach the server only after their link has expired."""
    held = range(3, 16, 4)
    async with proxied(server.port, cut_within=CUT_WITHIN, held=held, hold_seconds=3.5) as proxy:
        data, result = await pulled(out, replace(CONFIG, store=server.store(proxy.url), link_seconds=2))
    assert data == expected
    assert result.exports == WINDOWS
    assert proxy.statuses[403] + proxy.statuses[410] >= len(held)


async def assert_one_file_in_several_streams_is_complete(server: FileServer, out: Path, expected: bytes) -> None:
    """All rows are in one file, which takes a single connection 15 seconds."""
    async with proxied(server.port, bytes_per_second=500_000, cut_within=4_000_000, spared=1) as proxy:
        config = replace(CONFIG, store=server.store(proxy.url), rows_per_file=CONFIG.rows * 2)
        data, result = await pulled(out, config, window="1y")
    assert data == expected
    assert result.exports == result.parts == 1
    assert proxy.statuses[206] > proxy.cuts  # some for parallel segments, not only to resume
