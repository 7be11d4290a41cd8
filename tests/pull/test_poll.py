"""Polling against an API in memory, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import cast

import anyio
import pytest

from bulkpull import Export, ExportError, NotFoundError, RetryPolicy, Window
from bulkpull.events import Event, Polled, ignore
from bulkpull.pacing import DownloadLimit, ExportLimit
from bulkpull.pull.journey import ExportFailure
from bulkpull.pull.poll import Poller
from bulkpull.pull.slots import Slots
from bulkpull.source import Source
from tests.clock import on_a_jumping_clock

WINDOW = Window(2, datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))


class Exporting:
    """An API that answers from a script: for each launch the seconds it takes, and how it ends."""

    retry = RetryPolicy()
    requests_per_minute = 1800
    throttled_at: float | None = None

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
        return Export(f"export-{len(self.launches)}", "queued", "pending")

    async def get_export(self, export_id: str) -> Export:
        waited = anyio.current_time() - self.began
        self.polls.append(waited)
        if waited < self.seconds:
            return Export(export_id, "running", "started" if waited < self.seconds / 2 else "not-heard-of")
        if self.end == "gone":
            raise NotFoundError("no such export", status=404)
        message = "out of memory" if self.end == "failed" else None
        if self.end == "success":
            return Export(export_id, "succeeded", self.end, links=("https://files/1",))
        return Export(export_id, "failed", self.end, message)


def polled(
    api: Exporting, *, export_timeout: float = 3600, age: float | None = None
) -> tuple[Export | ExportFailure, list[Event]]:
    """What polling a launched export comes to, and what is announced."""
    heard: list[Event] = []

    async def main() -> Export | ExportFailure:
        export = await api.start_export("")
        now = anyio.current_time()
        slots = Slots(ExportLimit(None, 128, now), DownloadLimit(8, now), ignore)
        poller = Poller(stand_in(api), slots, export_timeout=export_timeout, on_event=heard.append)
        try:
            return await poller.poll(WINDOW, export, age=age)
        except ExportFailure as failure:
            return failure

    return on_a_jumping_clock(main), heard


def stand_in(api: Exporting) -> Source:
    return cast(Source, api)  # the stages under test use these two methods only


def test_an_export_is_polled_until_it_succeeds() -> None:
    api = Exporting((60, "success"))
    export, heard = polled(api)
    assert isinstance(export, Export)
    assert export.links == ("https://files/1",)
    statuses = [event.status for event in heard if isinstance(event, Polled)]
    assert set(statuses) == {"started", "not-heard-of", "success"}
    assert len(statuses) == len(heard) == len(api.polls)


@pytest.mark.parametrize("seconds", [0.1, 1, 10, 60, 600, 3000])
def test_where_nothing_is_known_yet_polls_come_early_and_then_in_proportion(seconds: float) -> None:
    api = Exporting((seconds, "success"))
    polled(api)
    assert 0.1 < api.polls[0] < 0.4
    delay = api.polls[-1] - seconds
    assert delay <= max(0.6, 0.33 * seconds)
    gaps = [later - earlier for earlier, later in zip(api.polls, api.polls[1:], strict=False)]
    assert len(set(gaps)) == len(gaps)  # jitter: no two alike
    assert len(api.polls) < 48  # of 3,000 s; some early ones, since the export is alone


def test_an_export_of_an_earlier_run_is_asked_for_at_once() -> None:
    api = Exporting((0, "success"))
    assert isinstance(polled(api, age=5000)[0], Export)
    assert api.polls == [0]


def test_an_export_of_an_earlier_run_has_what_is_left_of_its_timeout() -> None:
    api = Exporting((10_000, "success"))
    failure, _ = polled(api, age=3000)
    assert "after 3600 s" in str(failure)
    assert 500 < api.polls[-1] <= 600
    api = Exporting((10_000, "success"))
    assert isinstance(polled(api, age=5000)[0], ExportFailure)
    assert api.polls == [0]


@pytest.mark.parametrize(
    ("end", "message"), [("failed", "out of memory"), ("gone", "it vanished: the API does not know it (404)")]
)
def test_an_export_that_will_not_do_is_told_with_its_reason(end: str, message: str) -> None:
    failure, _ = polled(Exporting((5, end)))
    assert isinstance(failure, ExportFailure)
    assert (failure.export_id, str(failure), failure.kind) == ("export-1", message, ExportError)


def test_an_export_that_outlives_its_timeout_will_not_do() -> None:
    failure, heard = polled(Exporting((10_000, "success")), export_timeout=100)
    assert isinstance(failure, ExportFailure)
    assert str(failure) == "it was still started after 100 s"
    assert all(isinstance(event, Polled) and event.waited <= 100 for event in heard)
