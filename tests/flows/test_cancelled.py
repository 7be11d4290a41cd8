"""Cancellation at a random await of every stage leaks nothing, and the pull can be resumed."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bulkpull
from bulkpull import Clickwrap, Result, events
from bulkpull.events import Event
from bulkpull.sandbox.process import SandboxProcess
from tests.commands import sandbox_process

WINDOWS = 7
OPTIONS: dict[str, Any] = {
    "start": "2024-01-01",
    "end": "2024-07-01",
    "window": "4w",
    "exports": 4,
    "fields": ["connection_data.page_title"],
}
OUTPUTS = ("a.csv", "a.parquet")
STAGES = (
    events.Planned,
    events.Requested,
    events.Launched,
    events.Polled,
    events.Exported,
    events.Received,
    events.PartFetched,
    events.PartMerged,
    events.WindowMerged,
    events.Published,
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    """In a separate process, so that all tasks, threads and sockets in this one are the pull's."""
    options = ["--rows", "3000", "--end", "2024-07-01", "--export-seconds", "0.05", "--rows-per-file", "250"]
    with sandbox_process(*options) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def only_new_garbage() -> Iterator[None]:
    """Keep what is there already from each collection of garbage: thousands of tests and all libraries."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def undisturbed(sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of each output of an undisturbed pull."""
    directory = tmp_path_factory.mktemp("undisturbed")
    for name in set(OUTPUTS):
        asyncio.run(pull(sandbox, directory / name))
    return {out.name: out.read_bytes() for out in directory.iterdir()}


async def pull(sandbox: SandboxProcess, out: Path, **options: Any) -> Result:
    async with Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        return await bulkpull.pull(clickwrap, out=out, **OPTIONS, **options)


def handles() -> list[str]:
    """The open files, sockets and event loops."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(handle.readlink()))
        except FileNotFoundError:  # the handle of the listing itself
            continue
    return sorted(found)


def started_since(before: list[threading.Thread]) -> list[threading.Thread]:
    """The threads that are new and run: at once none, or once anyio's threads, which nobody joins, have ended."""
    deadline = time.monotonic() + 30
    while (found := [one for one in threading.enumerate() if one not in before]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("seed", "name"), list(enumerate(OUTPUTS)))
def test_a_pull_cancelled_at_a_random_await_leaks_nothing_and_resumes(
    sandbox: SandboxProcess,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stage: type[Event],
    seed: int,
    name: str,
) -> None:
    draw = random.Random(f"{stage.__name__} {seed}")
    out = tmp_path / name
    left: list[asyncio.Task[Any]] = []

    async def cancelled() -> None:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        # Cancels a random number of event loop iterations after a random event.
        times = draw.randint(1, {events.Planned: 1, events.Published: 1}.get(stage, WINDOWS))
        turns = draw.choice((0, 1, 2, 3, 5, 8, 13, 21))

        def later(turns: int) -> None:
            if turns:
                loop.call_soon(later, turns - 1)
            else:
                work.cancel()

        def listen(event: Event) -> None:
            nonlocal times
            times -= isinstance(event, stage)
            if isinstance(event, stage) and times == 0:
                later(turns)

        async with Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
            work = loop.create_task(bulkpull.pull(clickwrap, out=out, on_event=listen, **OPTIONS))
            try:
                await work
            except asyncio.CancelledError:
                assert work.cancelled()
            left.extend(asyncio.all_tasks() - {me})

    # Debug mode checks who calls the event loop; the stacks that it keeps of every call would take half of the time.
    monkeypatch.setattr("asyncio.constants.DEBUG_STACK_DEPTH", 1)
    gc.collect()
    threads, files = threading.enumerate(), handles()
    with caplog.at_level(logging.ERROR):
        asyncio.run(cancelled(), debug=True)
    gc.collect()
    assert left == []
    assert started_since(threads) == []
    assert handles() == files
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    if out.exists():  # cancelled too late
        assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.manifest.json"]
    else:
        result = asyncio.run(pull(sandbox, out))
        assert result.exports == WINDOWS
    assert out.read_bytes() == undisturbed[name]
