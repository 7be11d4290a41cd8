"""A launch that is cancelled waits for its answer, and one that is refused for exports that may still run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from bulkpull.errors import AuthenticationError
from bulkpull.events import Event, OnEvent, Recovered, Retried, ignore
from bulkpull.journal import Journal
from bulkpull.pacing import DownloadLimit, ExportLimit
from bulkpull.pull.export import LAUNCH_GRACE_S, Exporter
from bulkpull.pull.extra import ExtraExports
from bulkpull.pull.journey import Journey
from bulkpull.pull.slots import Slots
from bulkpull.source import Export
from bulkpull.window import Window
from tests.simulation.clock import simulated
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap

WINDOW = Window(0, START, END)


def exporter_of(source: SimulatedClickwrap, journal: Journal, on_event: OnEvent = ignore) -> Exporter:
    return Exporter(
        source,
        journal,
        filter="",
        fields=(),
        slots=Slots(ExportLimit(None, 1, 0.0), DownloadLimit(1, 0.0), ignore),
        extra=ExtraExports(0),
        unlaunched={0},
        export_timeout=600.0,
        on_event=on_event,
    )


@pytest.mark.parametrize(("latency", "answered"), [(LAUNCH_GRACE_S / 2, True), (4 * LAUNCH_GRACE_S, False)])
def test_an_answer_within_the_grace_is_recorded_and_the_cancellation_goes_on(
    tmp_path: Path, latency: float, answered: bool
) -> None:
    server = Server(Model(latency=latency), [])
    journal = Journal(tmp_path / "journal.sqlite")
    journal.begin({}, END, [WINDOW])

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            exporter = exporter_of(SimulatedClickwrap(server), journal)
            await exporter.export(Journey(WINDOW), 1)
            raise AssertionError("it went on")
        assert scope.cancelled_caught
        assert anyio.current_time() <= 0.1 + LAUNCH_GRACE_S

    simulated(0, main)
    assert journal.launches == 1
    assert len(journal.exports()) == answered
    journal.close()


class Full(SimulatedClickwrap):
    """Refuses launches until its time is `until`, as it has an export that nobody knows of."""

    until = 0.0
    status = 403
    launches = 0

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export:
        self.launches += 1
        if anyio.current_time() < self.until:
            raise AuthenticationError("the limit is reached", status=self.status, undone=True)
        return await super().start_export(filter, fields)


def launched(directory: Path, *, until: float, status: int = 403, unanswered: bool = True) -> tuple[Full, list[Event]]:
    """Launch an export, perhaps after an earlier run whose launch was not answered."""
    source, events = Full(Server(Model(), [])), list[Event]()
    source.until, source.status = until, status
    with closing(Journal(directory / "journal.sqlite")) as journal:
        journal.begin({}, END, [WINDOW])

        async def main() -> None:
            if unanswered:
                journal.record_lost_answer(journal.record_launch(WINDOW))
            await exporter_of(source, journal, events.append).export(Journey(WINDOW), 1)

        simulated(0, main)
    return source, events


def test_a_refusal_may_be_due_to_an_export_whose_launch_was_not_answered(tmp_path: Path) -> None:
    source, events = launched(tmp_path, until=120.0)
    [first, *_] = [event for event in events if isinstance(event, Retried)]
    assert "other exports of this pull" in first.reason
    assert first.left == pytest.approx(600.0, abs=5.0)
    assert [event.what for event in events if isinstance(event, Recovered)] == [first.what]
    assert source.launches <= 50


@pytest.mark.parametrize(
    ("until", "status", "unanswered"), [(700.0, 403, True), (120.0, 400, True), (120.0, 403, False)]
)
def test_a_refusal_is_an_error_in_the_end(tmp_path: Path, until: float, status: int, unanswered: bool) -> None:
    with pytest.raises(AuthenticationError, match="the limit is reached"):
        launched(tmp_path, until=until, status=status, unanswered=unanswered)
