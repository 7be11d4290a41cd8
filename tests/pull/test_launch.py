"""A launch that is cancelled waits for its answer, for a moment."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from bulkpull.events import ignore
from bulkpull.journal import Journal
from bulkpull.pacing import DownloadLimit, ExportLimit
from bulkpull.pull.export import LAUNCH_GRACE_S, Exporter
from bulkpull.pull.extra import ExtraExports
from bulkpull.pull.journey import Journey
from bulkpull.pull.slots import Slots
from bulkpull.window import Window
from tests.simulation.clock import simulated
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap

WINDOW = Window(0, START, END)


@pytest.mark.parametrize(("latency", "answered"), [(LAUNCH_GRACE_S / 2, True), (4 * LAUNCH_GRACE_S, False)])
def test_an_answer_within_the_grace_is_recorded_and_the_cancellation_goes_on(
    tmp_path: Path, latency: float, answered: bool
) -> None:
    server = Server(Model(latency=latency), [])
    journal = Journal(tmp_path / "journal.sqlite")
    journal.begin({}, END, [WINDOW])

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            exporter = Exporter(
                SimulatedClickwrap(server),
                journal,
                filter="",
                fields=(),
                slots=Slots(ExportLimit(None, 1, 0.0), DownloadLimit(1, 0.0), ignore),
                extra=ExtraExports(0),
                unlaunched={0},
                export_timeout=60.0,
                on_event=ignore,
            )
            await exporter.export(Journey(WINDOW), 1)
            raise AssertionError("it went on")
        assert scope.cancelled_caught
        assert anyio.current_time() <= 0.1 + LAUNCH_GRACE_S

    simulated(0, main)
    assert journal.launches == 1
    assert len(journal.exports()) == answered
    journal.close()
