"""Events tell what happens and steer nothing: a pull whose events nobody hears, not even itself, is the same pull."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from unittest.mock import patch

from bulkpull import BulkpullError, pull
from bulkpull.events import Event
from bulkpull.pull.orchestrator import _Pull
from tests.simulation.clock import simulated
from tests.simulation.schedule import drawn, memory
from tests.simulation.server import Server, SimulatedClickwrap

Launch = tuple[datetime, datetime, float]


def pulled(seed: int) -> tuple[bytes | str, list[Launch], Server]:
    """The output, or the error; the exports in the order of their launch; and the server. The client does not know the
    server's quota, so that it is throttled."""
    server, options, _ = drawn(seed, killed=False)

    async def main(out: Path) -> str | None:
        try:
            await pull(SimulatedClickwrap(server), out=out, **options)
        except BulkpullError as error:
            return str(error)
        return None

    with memory() as directory:
        out = directory / "a.csv"
        outcome = simulated(seed, partial(main, out)) or out.read_bytes()
    return outcome, [(task.start, task.end, task.launched) for task in server.tasks.values()], server


def silence(_pull: _Pull, _event: Event) -> None:
    """Neither counts nor tells."""


def test_a_pull_without_any_listener_is_the_same_pull() -> None:
    servers = []
    for seed in range(24):
        outcome, launches, server = pulled(seed)
        with patch.object(_Pull, "announce", silence):
            silent_outcome, silent_launches, _ = pulled(seed)
        assert silent_launches == launches, seed
        assert silent_outcome == outcome, seed
        servers.append(server)
    # What could have steered has happened.
    assert sum(server.throttled > 0 for server in servers) > 5
    assert sum(any(task.fate == "failed" for task in server.tasks.values()) for server in servers) > 5
    assert sum(server.peak > 4 for server in servers) > 5
