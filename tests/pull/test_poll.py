"""Launching and polling against an API in memory, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import anyio
import pytest

from bulkpull import ApiError, Export, ExportError, NotFoundError, RetryPolicy, Window
from bulkpull.events import Event, Exported, ExportFailed, Launched, Polled
from bulkpull.pull.api import Api
from bulkpull.pull.launch import launch
from bulkpull.pull.poll import MOST
from tests.clock import on_a_jumping_clock

WINDOW = Window(2, datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))


class Exporting:
    """An API that answers from a script: for each launch the seconds it takes, and how it ends."""

    retry = RetryPolicy()

    def __init__(self, *script: tuple[float, str]) -> None:
        self.script: Iterator[tuple[float, str]] = iter(script)
        self.launches: list[tuple[str, Sequence[str]]] = []
        self.polls: list[float] = []
        self.began = 0.0
        self.seconds = 0.0
        self.end = ""

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        self.launches.append((filter, fields))
        self.seconds, self.end = next(self.script)
        self.began = anyio.current_time()
        return Export(f"export-{len(self.launches)}", "pending")

    async def get_export(self, export_id: str) -> Export:
        waited = anyio.current_time() - self.began
        self.polls.append(waited)
        if waited < self.seconds:
            return Export(export_id, "started" if waited < self.seconds / 2 else "not-heard-of")
        if self.end == "gone":
            raise NotFoundError("no such export", status=404)
        message = "out of memory" if self.end == "failed" else None
        return Export(export_id, self.end, message, ("https://files/1",) if self.end == "success" else ())


def launched(api: Exporting, *, export_timeout: float = 3600) -> tuple[Export | Exception, list[Event]]:
    """What launching a window comes to, and what is announced."""
    heard: list[Event] = []

    async def main() -> Export | Exception:
        try:
            return await launch(
                stand_in(api),
                WINDOW,
                filter="event_type==agreed",
                fields=("id", "v"),
                export_timeout=export_timeout,
                on_event=heard.append,
            )
        except ApiError as error:
            return error

    return on_a_jumping_clock(main), heard


def stand_in(api: Exporting) -> Api:
    return api  # type: ignore[return-value] # the stages under test use these two methods only


def test_an_export_is_launched_with_the_windows_filter_and_polled_until_it_succeeds() -> None:
    api = Exporting((60, "success"))
    export, heard = launched(api)
    assert isinstance(export, Export)
    assert export.links == ("https://files/1",)
    assert api.launches == [
        (
            "created_time>=2024-03-01T00:00:00.000Z and created_time<2024-04-01T00:00:00.000Z and event_type==agreed",
            ("id", "v"),
        )
    ]
    assert heard[0] == Launched(WINDOW, "export-1", 1)
    assert isinstance(heard[-1], Exported)
    assert {event.status for event in heard if isinstance(event, Polled)} == {"started", "not-heard-of", "success"}


@pytest.mark.parametrize("seconds", [0.1, 1, 10, 60, 600, 3000])
def test_polls_come_early_and_then_in_proportion(seconds: float) -> None:
    api = Exporting((seconds, "success"))
    launched(api)
    assert 0.3 < api.polls[0] < 0.7
    delay = api.polls[-1] - seconds
    assert delay <= min(max(0.6, 0.31 * seconds), 1.2 * MOST)
    gaps = [later - earlier for earlier, later in zip(api.polls, api.polls[1:], strict=False)]
    assert all(gap <= 1.2 * MOST for gap in gaps)
    assert len(set(gaps)) == len(gaps)  # jitter: no two alike
    assert len(api.polls) < 25 + seconds / 20


def test_an_export_that_fails_is_launched_again() -> None:
    api = Exporting((5, "failed"), (5, "gone"), (5, "success"))
    export, heard = launched(api)
    assert isinstance(export, Export)
    assert export.id == "export-3"
    failures = [event for event in heard if isinstance(event, ExportFailed)]
    assert [(event.export_id, event.attempt) for event in failures] == [("export-1", 1), ("export-2", 2)]
    assert failures[0].reason == "out of memory"
    assert "vanished" in failures[1].reason


def test_an_export_that_outlives_its_timeout_is_launched_again() -> None:
    api = Exporting((10_000, "success"), (5, "success"))
    export, heard = launched(api, export_timeout=100)
    assert isinstance(export, Export)
    [failure] = [event for event in heard if isinstance(event, ExportFailed)]
    assert failure.reason == "it was still not-heard-of after 100 s" or "started after 100 s" in failure.reason


def test_after_three_failures_the_error_names_window_export_and_message() -> None:
    api = Exporting((5, "failed"), (5, "failed"), (5, "failed"), (5, "success"))
    error, _ = launched(api)
    assert isinstance(error, ExportError)
    for part in ("window 3 [2024-03-01, 2024-04-01)", "export-3", "out of memory"):
        assert part in str(error)
    assert len(api.launches) == 3
