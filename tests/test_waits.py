"""What a pull waits for, told from its events on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from bulkpull import Progress, Window
from bulkpull.events import (
    Event,
    Exported,
    Launched,
    MergeAwaited,
    PartFetched,
    Planned,
    Polled,
    Published,
    QuotaExhausted,
    Received,
    Recovered,
    Rendered,
    Requested,
    Retried,
    Throttled,
    WindowMerged,
)

WINDOWS = [
    Window(at, datetime(2024, 1, 1 + at, tzinfo=UTC), datetime(2024, 1, 2 + at, tzinfo=UTC), 100) for at in (0, 1)
]
FIRST, SECOND = WINDOWS
PLANNED = Planned((FIRST, SECOND))
BOTH = (PLANNED, Launched(FIRST, "e", 1), Launched(SECOND, "f", 1))
EXPORTED = (*BOTH, Exported(FIRST, "e", 1, 210.0), Polled(SECOND, "f", "success", "succeeded", 210.0))
DONE = (*BOTH, *(Polled(one, "e", "success", "succeeded", 9.0) for one in WINDOWS))
DONE = (*DONE, Exported(FIRST, "e", 1, 9.0), Exported(SECOND, "f", 1, 9.0))
FETCHED = (*DONE, PartFetched(FIRST, 1, 9), PartFetched(SECOND, 1, 9))
MERGED = (*FETCHED, WindowMerged(FIRST), WindowMerged(SECOND))
OUTAGE = Retried("GET /tasks/export/e", 2, 30.0, "503 'down for maintenance'", 852.0)


def after(*events: Event | float) -> Progress:
    """The progress after these events; numbers are seconds that pass between them."""
    clock = [0.0]
    progress = Progress(lambda: clock[0])
    for event in events:
        if isinstance(event, Event):
            progress(event)
        else:
            clock[0] += event
    return progress


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), "starting"),
        ((Requested("GET /activity"),), "counting the activity"),
        ((PLANNED,), "launching exports"),
        ((*BOTH, 252.0), "waiting for 2 exports (oldest 4:12)"),
        ((*BOTH, 210.0, *EXPORTED[3:4], 42.0), "waiting for 1 export (oldest 4:12, usually 3:30)"),
        ((*BOTH, QuotaExhausted(12.0)), "quota: next request in 12 s"),
        ((*BOTH, QuotaExhausted(12.0), 12.0), "waiting for 2 exports (oldest 0:12)"),
        ((*BOTH, Throttled("GET /activity", 40.0), 10.0), "quota: next request in 30 s"),
        ((*BOTH, OUTAGE), "API answers 503, retrying for 14 min more"),
        ((*BOTH, OUTAGE, 120.0), "API answers 503 for 2:00, retrying for 12 min more"),
        ((*BOTH, OUTAGE, Recovered(OUTAGE.what, 3)), "waiting for 2 exports (oldest 0:00)"),
        (
            (*BOTH, Retried("POST /tasks", 1, 9.0, "cannot connect: refused", 60.0)),
            "API fails, retrying for 60 s more: cannot connect: refused",
        ),
        (
            (
                *DONE,
                Retried(f"{FIRST}, part 1", 1, 9.0, "500 Internal"),
            ),
            "file host answers 500, retrying",
        ),
        ((*DONE, Retried(f"{FIRST}, part 1", 1, 9.0, "500"), Received(FIRST, 1, 9)), "downloading 2 files"),
        ((*FETCHED, MergeAwaited(SECOND)), "merge is the bottleneck: 2 windows behind"),
        ((*FETCHED, MergeAwaited(SECOND), WindowMerged(FIRST)), "merging"),
        (MERGED, "publishing the output"),
        ((*MERGED, Rendered(5, 9)), "converting to the output format"),
        ((*MERGED, Published()), "complete"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_state_says_what_the_pull_waits_for(events: Sequence[Event | float], expected: str) -> None:
    progress = after(*events)
    assert progress.waits_for == expected
    assert progress.snapshot().waits_for == expected


def test_a_host_that_fails_for_some_requests_only_is_not_an_outage() -> None:
    progress = after(*BOTH, OUTAGE, 5.0, Polled(SECOND, "f", "started", "running", 5.0))
    assert progress.wait.kind == "exports"


def test_an_outage_counts_from_its_first_failure_over_all_retries() -> None:
    progress = after(*BOTH, OUTAGE, 30.0, Retried(OUTAGE.what, 3, 30.0, "connection reset", 822.0), 15.0)
    assert (progress.wait.kind, progress.wait.since, progress.wait.reason) == (
        "outage",
        45.0,
        "fails: connection reset",
    )


def test_a_trouble_that_is_not_heard_of_again_expires() -> None:
    progress = after(*BOTH, OUTAGE, 30.0 + 119.0)
    assert progress.wait.kind == "outage"
    assert after(*BOTH, OUTAGE, 30.0 + 121.0).wait.kind == "exports"
