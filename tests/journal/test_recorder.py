"""What is recorded of a pull's events, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bulkpull import Window
from bulkpull.events import Exported, Launched, Polled, Received, Requested, Retried
from bulkpull.journal import Recorder
from bulkpull.journal.recorder import without_private

WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))


async def test_the_first_of_many_is_recorded_and_traffic_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(1800, 16, 8, is_adaptive=True)
    now = 1000.0
    monkeypatch.setattr(recorder, "_now", lambda: now)
    recorder(Launched(WINDOW, "one", 1))
    for state in ("queued", "queued", "running", "running"):
        now += 0.25
        recorder(Requested("GET /exports"))
        recorder(Polled(WINDOW, "one", state, state, 1.0))
    recorder(Exported(WINDOW, "one", 1, 1.0))
    for _ in range(3):
        recorder(Received(WINDOW, 1, 100))
    recorder(Retried("an export of jane@example.com", 1, 2.0, "no answer"))
    recorder.end_run(is_published=False)
    found = [(moment.at, moment.kind, moment.number, moment.other, moment.text) for moment in recorder.moments]
    assert [moment.kind for moment in recorder.moments][:2] == ["run", "options"]
    assert [one for one in found[2:] if one[1] != "traffic"] == [
        (1000.0, "launched", None, None, ""),
        (1000.25, "queued", None, None, ""),
        (1000.75, "running", None, None, ""),
        (1001.0, "ready", 1, 1000.5, ""),
        (1001.0, "downloading", None, None, ""),
        (1001.0, "retried", 2.0, None, "no answer"),
        (1001.0, "ended", 0, None, ""),
    ]
    assert [one for one in found if one[1] == "traffic"] == [
        (1000, "traffic", 3, 0, ""),
        (1001, "traffic", 1, 300, ""),
    ]


@pytest.mark.parametrize(
    ("reason", "recorded"),
    [
        (
            "no answer from https://files.example.com/a/b.csv?X-Sig=secret: timeout",
            "no answer from https://files.example.com timeout",
        ),
        ("filter signer_email==jane.doe+x@example.co.uk refused", "filter signer_email==(e-mail address) refused"),
        ("it failed", "it failed"),
    ],
)
def test_links_and_addresses_are_not_recorded(reason: str, recorded: str) -> None:
    assert without_private(reason) == recorded
