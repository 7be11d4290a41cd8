"""The files in examples/ do what they say, against a sandbox."""

from __future__ import annotations

import asyncio
import csv
import json
import runpy
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from bulkpull.sandbox import Sandbox, SandboxConfig
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 60.0
JANUARY = [{"id": name, "created_time": "2024-01-15"} for name in ("a", "b", "c")]
FEBRUARY = {"id": "d", "created_time": "2024-02-15"}
LONG = 1000.0  # seconds of an export that does not end in time


@pytest.fixture
def sandbox(clickwrap_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox with four rows; outputs go to `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    clickwrap_sandbox.rows = [*JANUARY, FEBRUARY]
    return clickwrap_sandbox


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)  # noqa: S603


def ids(out: Path) -> list[str]:
    with out.open(encoding="utf-8", newline="") as lines:
        return [row["id"] for row in csv.DictReader(lines)]


def test_own_session(sandbox: Sandbox, tmp_path: Path) -> None:
    assert run("own_session.py").stdout == "3 rows, of 4 in all\n"
    assert ids(tmp_path / "january.csv") == ["a", "b", "c"]


def test_notebook(sandbox: Sandbox, tmp_path: Path) -> None:
    shown = run("notebook.py", "2024-01-01", "2024-02-01", "january.csv").stderr
    assert ids(tmp_path / "january.csv") == ["a", "b", "c"]
    assert "3.00/3.00" in shown
    assert "exports=1/1" in shown


def test_polars_frame(sandbox: Sandbox) -> None:
    assert run("polars_frame.py", "2024-01-01", "2024-02-01").stdout == "[(None, 3)]\n"


def test_duckdb_table(sandbox: Sandbox, tmp_path: Path) -> None:
    assert run("duckdb_table.py", "2024-01-01", "2024-03-01", "a.duckdb").stdout == "(4, 4)\n"
    assert (tmp_path / "a.duckdb").exists()


@asynccontextmanager
async def serving(name: str = "fastapi_progress.py") -> AsyncIterator[httpx.AsyncClient]:
    """The service, in this event loop."""
    app = runpy.run_path(str(EXAMPLES / name))["app"]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
            yield client
    finally:
        server.should_exit = True
        with anyio.fail_after(TIMEOUT_S):
            await task


async def events(client: httpx.AsyncClient) -> AsyncGenerator[tuple[str, Any], None]:
    """The events of a request for January."""
    async with client.stream("GET", "/activity", params={"start": "2024-01-01", "end": "2024-02-01"}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


async def test_fastapi_streams_the_progress(sandbox: Sandbox, tmp_path: Path) -> None:
    async with serving() as client:
        heard = [event async for event in events(client)]
        again = [event async for event in events(client)]
    assert {name for name, _ in heard[:-1]} == {"progress"}
    assert heard[-1] == ("done", {"rows": 3, "complete": True, "output": "activity-2024-01-01-2024-02-01.csv"})
    assert ids(tmp_path / "activity-2024-01-01-2024-02-01.csv") == ["a", "b", "c"]
    name, data = again[-1]
    assert name == "failed"
    assert "exists" in data["reason"]


async def test_fastapi_streams_rows(sandbox: Sandbox) -> None:
    async with serving("fastapi_ndjson.py") as client:
        response = await client.get("/rows", params={"start": "2024-01-01", "end": "2024-02-01"})
    assert response.headers["Content-Type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["created_time"] == "2024-01-15T00:00:00+00:00"


class TestWithExportsThatTakeLong:
    @pytest.fixture
    def clickwrap_sandbox_config(self, clickwrap_sandbox_config: SandboxConfig) -> SandboxConfig:
        return replace(clickwrap_sandbox_config, export_seconds=LONG)

    async def test_fastapi_cancels_the_pull_when_the_client_goes_away(self, sandbox: Sandbox, tmp_path: Path) -> None:
        def pulls() -> int:
            return sum(getattr(task.get_coro(), "__name__", "") == "pull" for task in asyncio.all_tasks())

        async with serving() as client:
            async with aclosing(events(client)) as heard:
                async for name, data in heard:
                    assert name == "progress"
                    if data["exports_queued"] + data["exports_running"]:
                        break
                assert pulls() == 1
            await until(lambda: not pulls())
        assert (tmp_path / "activity-2024-01-01-2024-02-01.csv.bulkpull").is_dir()  # to be resumed
