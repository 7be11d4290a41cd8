"""The progress of a pull, and listeners that cannot be told of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bulkpull
from bulkpull import Clickwrap, Progress, PullOptions, UsageError, Window
from bulkpull.events import (
    Event,
    Exported,
    ExportFailed,
    Launched,
    PartFetched,
    Planned,
    Polled,
    Published,
    Received,
    Resumed,
    Split,
    WindowMerged,
)
from bulkpull.sandbox import Sandbox, SandboxConfig

WINDOWS = [Window(at, datetime(2024, 1, 1 + at, tzinfo=UTC), datetime(2024, 1, 2 + at, tzinfo=UTC)) for at in range(4)]


def seen(*events: Event) -> Progress:
    progress = Progress()
    for event in (Planned(tuple(WINDOWS[:2])), Launched(WINDOWS[0], "e", 1), *events):
        progress(event)
    return progress


def figures(progress: Progress) -> tuple[int, int, int, int, int]:
    return (
        progress.windows,
        progress.exports_in_flight,
        progress.exports_launched,
        progress.exports_done,
        progress.parts,
    )


def test_counts_exports() -> None:
    assert figures(seen()) == (2, 1, 1, 0, 0)
    assert figures(seen(Exported(WINDOWS[0], "e", 3, 1.0))) == (2, 0, 1, 1, 3)


@pytest.mark.parametrize("delivered", [False, True])
def test_pieces_take_the_place_of_their_window(delivered: bool) -> None:
    events: tuple[Event, ...] = (ExportFailed(WINDOWS[0], "e", 1, "too large"),)
    if delivered:
        events = (Exported(WINDOWS[0], "e", 3, 1.0), PartFetched(WINDOWS[0], 1, 9))
    progress = seen(*events, Split(WINDOWS[0], tuple(WINDOWS[2:]), "truncated"))
    assert figures(progress) == (3, 0, 0, 0, 0)
    assert progress.parts_downloaded == 0
    progress(Launched(WINDOWS[2], "f", 1))
    assert figures(progress) == (3, 1, 1, 0, 0)


def test_pieces_of_a_merged_window_come_in_addition() -> None:
    merged = (Exported(WINDOWS[0], "e", 1, 1.0), WindowMerged(WINDOWS[0]))
    progress = seen(*merged, Split(WINDOWS[0], tuple(WINDOWS[2:]), "truncated", is_merged=True))
    assert figures(progress) == (4, 0, 1, 1, 1)
    assert progress.windows_merged == 1


def test_tells_exports_in_the_queue_from_those_that_run() -> None:
    def states(progress: Progress) -> tuple[int, int, int, int]:
        now = progress.snapshot()
        return now.exports_queued, now.exports_running, now.exports_done, now.exports_failed

    second = Launched(WINDOWS[1], "f", 1)
    running = Polled(WINDOWS[0], "e", "started", "running", 1.0)
    assert states(seen(second)) == (2, 0, 0, 0)
    assert states(seen(second, running)) == (1, 1, 0, 0)
    assert states(seen(second, running, ExportFailed(WINDOWS[0], "e", 1, "failed"))) == (2, 0, 0, 1)
    done = seen(second, running, Exported(WINDOWS[0], "e", 1, 2.0))
    assert states(done) == (1, 0, 1, 0)
    done(running)  # asked for links again, and the status went back
    assert states(done) == (1, 0, 1, 0)


def test_rows_are_counted_only_if_all_windows_are() -> None:
    counted = [Window(window.index, window.start, window.end, rows=5) for window in WINDOWS[:2]]
    progress = Progress()
    progress(Planned(tuple(counted)))
    assert progress.rows_counted == 10
    progress(Planned((*counted, WINDOWS[2])))
    assert progress.rows_counted is None


def test_a_resumed_pull_begins_with_what_earlier_runs_have_done() -> None:
    resumed = Resumed(2, 1, 3, 70, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    now = seen(resumed, Launched(WINDOWS[1], "f", 1)).snapshot()
    assert (now.rows, now.duplicates, now.windows_merged, now.exports_done, now.remaining) == (70, 4, 1, 1, None)


def test_time_runs_from_the_first_event_until_the_output_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("bulkpull.progress.time.monotonic", lambda: clock[0])
    progress = Progress()
    assert (progress.elapsed, progress.rate, progress.remaining) == (0.0, 0.0, None)
    progress(Planned(tuple(WINDOWS)))
    clock[0] += 4
    progress(Received(WINDOWS[0], 1, 1000))
    clock[0] += 2
    progress(Received(WINDOWS[0], 1, 3000))
    progress(WindowMerged(WINDOWS[0]))
    assert (progress.elapsed, progress.rate, progress.remaining) == (6.0, 1500.0, None)
    progress(Published())
    clock[0] += 60
    assert (progress.elapsed, progress.rate, progress.is_published) == (6.0, 0.0, True)


def test_the_snapshot_has_what_the_object_has_and_is_json() -> None:
    progress = seen()
    figures = json.loads(json.dumps(asdict(progress.snapshot())))
    assert set(figures) <= {name for name in dir(progress) if not name.startswith("_")}
    assert figures["windows"] == 2


async def test_other_threads_read_the_progress_of_a_pull(tmp_path: Path) -> None:
    progress, ended = Progress(), threading.Event()
    seen_rows: list[int] = []
    wrong: list[Exception] = []

    def read() -> None:
        try:
            while not ended.is_set():
                now = progress.snapshot()
                assert now.parts_downloaded <= now.parts
                assert now.exports_queued >= 0
                seen_rows.append(now.rows)
        except Exception as error:  # told to the test
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        config = SandboxConfig(rows=3000, export_seconds=0.05, rows_per_file=200)
        async with Sandbox(config) as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
            options: dict[str, Any] = {"start": "2024-01-01", "end": "2026-01-01", "window": "2mo"}
            result = await bulkpull.pull(clickwrap, **options, out=tmp_path / "activity.csv", on_event=progress)
    finally:
        ended.set()
        reader.join()
    assert not wrong
    assert seen_rows == sorted(seen_rows)
    now = progress.snapshot()
    assert (now.rows, now.bytes, now.duplicates) == (result.rows, result.bytes, result.duplicates)
    assert (now.windows, now.windows_merged, now.exports_done) == (12, 12, 12)
    assert (now.parts, now.parts_downloaded, now.is_published) == (result.parts, result.parts, True)
    assert (now.exports_queued, now.exports_running, now.remaining) == (0, 0, 0.0)


async def _listen(_event: Event) -> None: ...


class _Listener:
    async def __call__(self, _event: Event) -> None: ...

    async def method(self, _event: Event) -> None: ...


@pytest.mark.parametrize(
    "on_event",
    [_listen, partial(_listen), _Listener(), partial(_Listener()), _Listener().method],
    ids=["function", "partial", "object", "partial of an object", "method"],
)
def test_coroutine_functions_are_no_listeners(on_event: Callable[[Event], Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on_event is asynchronous"):
        PullOptions(start="2024-01-01", out=tmp_path / "a.csv", on_event=on_event)


@pytest.mark.parametrize("on_event", [Progress(), [].append, print, _Listener], ids=["progress", "list", "C", "class"])
def test_plain_callables_are_listeners(on_event: Callable[[Event], Any], tmp_path: Path) -> None:
    PullOptions(start="2024-01-01", out=tmp_path / "a.csv", on_event=on_event)


async def test_a_listener_that_returns_a_coroutine_ends_the_pull_at_its_first_event(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        with pytest.raises(UsageError, match="on_event is asynchronous"):
            await bulkpull.pull(clickwrap, start="2024-01-01", out=tmp_path / "a.csv", on_event=lambda e: _listen(e))  # type: ignore[arg-type]
        assert sandbox.stats.requests == {}
