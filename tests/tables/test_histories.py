"""After any history of deliveries, a table holds what plain rules say: rows, counts, changes and the state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkpull.errors import OutputError
from bulkpull.tables import DELETED_COLUMN, Policy
from tests.conftest import EXAMPLES
from tests.tables.model import Model, RefusedError
from tests.tables.places import FilePlace, Place, at_minute, delivery, window

HOURS = 5
IDS = [f"{number:024x}" for number in range(7)]
VALUES = (None, "", "a", 'say "x"', "two\r\nlines\n", "a,b", "\\.", "\\N", "NULL", " blank ", "ü 利用 📝", "'; --")

policies = st.builds(
    Policy,
    deleted=st.sampled_from(("mark", "mark", "drop", "keep")),
    on_conflict=st.sampled_from(("newest", "newest", "first", "error")),
    max_shrink=st.sampled_from((0.0, 0.3, 1.0)),
    max_shrink_rows=st.sampled_from((0, 1, 100, 100)),
)


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[int], dict[str, dict[str, str | None]], Policy]:
    """Draw the hours that are delivered, the rows in them by id, and the policy."""
    hours = sorted(draw(st.sets(st.integers(0, HOURS - 1), min_size=1)))
    minutes = st.builds(lambda hour, minute: hour * 60 + minute, st.sampled_from(hours), st.sampled_from((0, 59)))
    row = st.tuples(minutes, st.sampled_from(VALUES))
    drawn = draw(st.dictionaries(st.sampled_from(IDS), row))
    rows = {id: {"id": id, "created_time": at_minute(at), "value": value} for id, (at, value) in drawn.items()}
    return hours, rows, draw(policies)


histories = st.lists(steps(), min_size=3, max_size=8)


@settings(max_examples=max(EXAMPLES // 8, 1), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_a_table_holds_what_was_delivered(place: Place, tmp_path: Path, history: list[Any]) -> None:
    confirm_history(place, tmp_path, history)


def confirm_history(place: Place, tmp_path: Path, history: list[Any]) -> None:
    """Deliver to a new table of a place, which must hold what the model does."""
    name = place.new_name()
    table = place.table(name)
    model = Model()
    state = None
    table.open(create=True)
    try:
        for number, (hours, rows, policy) in enumerate(history):
            windows = [window(hour) for hour in hours]
            delivered = delivery(
                tmp_path,
                windows,
                list(rows.values()),
                expected=state,
                state=f"state {number}",
                at=at_minute(100_000 + number),
                changes=True,
            )
            try:
                expected, listed = model.replace(windows, rows, policy, delivered.at)
            except RefusedError:
                with pytest.raises(OutputError, match="nothing was changed"):
                    table.replace(delivered, policy)
                assert not list(tmp_path.glob("*ndjson*"))
            else:
                state = delivered.state
                changes = table.replace(delivered, policy)
                if isinstance(place, FilePlace):  # which write whole files
                    assert changes.rewritten >= expected.rewritten
                    changes = replace(changes, rewritten=expected.rewritten)
                assert changes == expected
                assert delivered.changes is not None
                lines = [json.loads(line) for line in delivered.changes.read_text().splitlines()]
                assert {(line["change"], line["id"]) for line in lines} == listed
                assert len(lines) == len(listed)
                assert [line["window"] for line in lines] == sorted(line["window"] for line in lines)
                delivered.changes.unlink()
        assert table.state() == state
        counts = [model.count(window(hour)) for hour in range(HOURS)]
        assert table.count([window(hour) for hour in range(HOURS)]) == counts
        found = place.rows(name)
        for row in found.values():
            row.setdefault(DELETED_COLUMN, None)
        assert found == {id: {DELETED_COLUMN: None, **row} for id, row in model.rows.items()}
    finally:
        table.close()
