"""The log of a pull: a record for each event, and nothing secret in it."""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

import bulkpull
from bulkpull import Clickwrap, Window, events, logs
from bulkpull.events import Event, Launched, Polled, Received, Rendered, Retried
from bulkpull.logs import LOGGER, RECORDS, event_fields, event_name, field_names, log
from bulkpull.messages import message
from bulkpull.sandbox import Sandbox
from tests.docs.examples import ROOT

WINDOW = Window(2, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC), rows=7)
KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


def test_each_event_but_those_that_count_bytes_has_a_record() -> None:
    assert set(KINDS) - {Event, Received, Rendered} == RECORDS.keys()


@pytest.mark.parametrize("kind", RECORDS, ids=event_name)
def test_each_event_has_a_message_and_the_documented_fields(kind: type[Event]) -> None:
    made = {"window": WINDOW, "windows": (WINDOW,), "pieces": (WINDOW,)}
    names = {field.name: str(field.type) for field in fields(kind)}
    values = {
        name: made.get(name, ("a",) if "tuple" in of else "text" if of == "str" else 1) for name, of in names.items()
    }
    event = kind(**values)
    assert message(event)
    assert list(event_fields(event)) == field_names(kind)


def test_a_window_is_its_number_and_its_bounds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        log(Polled(WINDOW, "an-id", "working", "running", 1.5))
        log(Received(WINDOW, 1, 10))
    (record,) = caplog.records
    found = {name: vars(record)[name] for name in ("event", "window", "window_start", "window_end", "seconds")}
    assert found == {
        "event": "polled",
        "window": 3,
        "window_start": "2024-01-01T00:00:00.000Z",
        "window_end": "2024-02-01T00:00:00.000Z",
        "seconds": 1.5,
    }
    assert (record.name, record.levelno) == ("bulkpull.export", logging.DEBUG)


def test_nothing_is_computed_for_a_logger_that_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_event: Event) -> str:
        raise AssertionError("computed")

    monkeypatch.setattr(logs, "message", fail)
    log(Launched(WINDOW, "an-id", 1))  # of level INFO, which is off
    with pytest.raises(AssertionError, match="computed"):
        log(Retried("GET /activity", 1, 1.0, "503", 10.0))


async def test_a_pull_logs_its_progress_and_no_secret(
    clickwrap_sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with Clickwrap.from_env() as clickwrap:
        result = await bulkpull.pull(
            clickwrap,
            start="2024-01-01",
            end="2026-01-01",
            out=tmp_path / "a.csv",
            filter="event_type==agreed",
            window="12mo",
        )
    found = [record for record in caplog.records if record.name.startswith(LOGGER)]
    names = [vars(record)["event"] for record in found]
    assert (names.count("launched"), names.count("window_merged"), names.count("published")) == (2, 2, 1)
    assert sum(vars(record).get("rows", 0) for record in found) == result.rows > 0
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in found)
    for secret in (clickwrap_sandbox.token, "event_type", "/files/", "http"):
        assert secret not in text
    first_id = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1].split(",")[0]
    assert first_id not in text


def test_the_documentation_has_each_record() -> None:
    page = (ROOT / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    documented = {name: (logger, level, re.findall(r"`(\w+)`", names)) for name, logger, level, names in rows}
    assert documented == {
        event_name(kind): (logger.name, logging.getLevelName(level), field_names(kind)[1:])
        for kind, (logger, level) in RECORDS.items()
    }
