"""A launch that is cancelled waits for its answer, for a moment."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from bulkpull.journal.journal import Journal
from bulkpull.pull.launch import GRACE, launch
from bulkpull.window import Window
from tests.simulation.clock import simulated
from tests.simulation.server import END, START, Model, Server, SimulatedClickwrap

WINDOW = Window(0, START, END)


@pytest.mark.parametrize(("latency", "answered"), [(GRACE / 2, True), (4 * GRACE, False)])
def test_an_answer_within_the_grace_is_recorded_and_the_cancellation_goes_on(
    tmp_path: Path, latency: float, answered: bool
) -> None:
    server = Server(Model(latency=latency), [])
    journal = Journal(tmp_path / "journal.sqlite")
    journal.begin({}, END, [WINDOW])

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            await launch(SimulatedClickwrap(server), WINDOW, journal, filter=None, fields=())
            await anyio.lowlevel.checkpoint()
            raise AssertionError("it went on")
        assert scope.cancelled_caught
        assert anyio.current_time() <= 0.1 + GRACE

    simulated(0, main)
    assert journal.launches == 1
    assert len(journal.exports()) == answered
    journal.close()
