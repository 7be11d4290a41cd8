"""A filter that the API refuses ends a pull before any export; the check costs one request where nothing is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bulkpull
from bulkpull import ApiError, Clickwrap
from bulkpull.sandbox import Sandbox, SandboxConfig

CONFIG = SandboxConfig(rows=200, export_seconds=0.0)
LIST = "GET /v1.1/activity"


@pytest.mark.parametrize(("window", "requests"), [("1mo", 1), ("auto", 2)])
async def test_a_refused_filter_makes_no_export(tmp_path: Path, window: str, requests: int) -> None:
    async with Sandbox(CONFIG) as sandbox, Clickwrap(sandbox.config.token, base_url=sandbox.url) as clickwrap:
        options: dict[str, Any] = {"start": "2024-01-01", "end": "2024-07-01", "filter": "nonsense==1"}
        with pytest.raises(
            ApiError, match=r"the API refuses the filter 'nonsense==1', so no export was started: .*unknown"
        ):
            await bulkpull.pull(clickwrap, **options, window=window, out=tmp_path / "a.csv")
    assert sandbox.stats.requests == {LIST: requests}
    assert list(tmp_path.iterdir()) == []


async def test_a_plan_by_volume_refuses_it_too() -> None:
    async with Sandbox(CONFIG) as sandbox, Clickwrap(sandbox.config.token, base_url=sandbox.url) as clickwrap:
        with pytest.raises(ApiError, match="refuses the filter"):
            await bulkpull.plan(clickwrap, start="2024-01-01", end="2024-07-01", filter="nonsense==1")


@pytest.mark.parametrize(("filter", "requests"), [(None, 0), ("event_type==agreed", 1)])
async def test_windows_of_a_length_take_one_request_for_the_filter(
    tmp_path: Path, filter: str | None, requests: int
) -> None:
    async with Sandbox(CONFIG) as sandbox, Clickwrap(sandbox.config.token, base_url=sandbox.url) as clickwrap:
        result = await bulkpull.pull(
            clickwrap, start="2024-01-01", end="2026-01-01", filter=filter, window="1y", out=tmp_path / "a.csv"
        )
    assert result.rows > 0
    assert sandbox.stats.requests.get(LIST, 0) == requests


async def test_a_token_that_may_not_list_pulls_all_the_same(tmp_path: Path) -> None:
    config = SandboxConfig(rows=200, export_seconds=0.0, counting=False)
    async with Sandbox(config) as sandbox, Clickwrap(sandbox.config.token, base_url=sandbox.url) as clickwrap:
        result = await bulkpull.pull(
            clickwrap, start="2024-01-01", filter="event_type==agreed", window="5y", out=tmp_path / "a.csv"
        )
    assert result.rows > 0
