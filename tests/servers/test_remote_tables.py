"""Data sets in object storage that are kept up to date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bulkpull.errors import OutputError, UsageError
from bulkpull.store import MANIFEST, Bucket, open_dataset
from bulkpull.tables import Changes, Policy, Table, table_at
from tests.servers.running import moto
from tests.servers.test_remote import BUCKET, Store, server, store  # noqa: F401
from tests.tables.places import COLUMNS, delivery
from tests.tables.test_files import DAY, MONTHS, deliver
from tests.tables.test_tables import row

pytestmark = pytest.mark.parametrize("server", [moto], ids=["moto"], indirect=True)
URL = f"s3://{BUCKET}/copy/activity/"


def opened() -> Table:
    table = table_at(URL, columns=COLUMNS)
    table.open(create=True)
    return table


def values() -> dict[str, Any]:
    found = pa.RecordBatchReader.from_stream(open_dataset(URL)).read_all().to_pylist()
    return {one["id"]: one["value"] for one in found if one["_deleted_at"] is None}


def test_a_data_set_is_kept_up_to_date(store: Store, tmp_path: Path) -> None:  # noqa: F811
    table = opened()
    rows = [row("a"), row("b", 1), row("c", 40 * DAY)]
    assert deliver(table, tmp_path, rows) == Changes(inserted=3, rewritten=3)
    table.close()
    table = opened()
    rows = [row("a"), row("c", 40 * DAY, "new"), row("d", 41 * DAY)]
    assert deliver(table, tmp_path, rows) == Changes(inserted=1, changed=1, deleted=1, rewritten=4)
    assert values() == {"a": "v", "c": "new", "d": "v"}
    assert (table.state(), table.columns()) == ("2", ("id", "created_time", "value"))
    again = delivery(tmp_path, MONTHS, [row("e")], state="3")
    assert table.replace(replace(again, rebuild=True), Policy()) == Changes(inserted=1, rewritten=1)
    assert (table.state(), values()) == ("3", {"e": "v"})


def test_of_two_syncs_the_second_changes_nothing(store: Store, tmp_path: Path) -> None:  # noqa: F811
    first, second = opened(), opened()
    deliver(first, tmp_path, [row("a")])
    with pytest.raises(OutputError, match=r"the state of .* nothing was changed"):
        deliver(second, tmp_path, [row("b")])
    assert values() == {"a": "v"}


def test_a_manifest_that_appears_while_files_are_written_stays(
    store: Store,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "other").mkdir()
    for other in ("x", "y"):
        table, winner = opened(), opened()
        expected = values() if other == "y" else {}
        put = Bucket.put

        def put_later(
            self: Bucket, key: str, *arguments: Any, other: str = other, winner: Table = winner, **options: Any
        ) -> None:
            if key.endswith(MANIFEST):
                monkeypatch.setattr(Bucket, "put", put)  # noqa: B023
                deliver(winner, tmp_path / "other", [row("x"), row(other)])
            put(self, key, *arguments, **options)  # noqa: B023

        monkeypatch.setattr(Bucket, "put", put_later)
        with pytest.raises(OutputError, match=r"another sync has written to .* nothing was changed"):
            deliver(table, tmp_path, [row("lost")])
        assert values() == expected | {"x": "v", other: "v"}


def test_other_objects_and_outages_are_told(
    store: Store,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store["copy/activity/notes.txt"] = b"x"
    with pytest.raises(OutputError, match=r"holds notes\.txt, and is no data set that a sync keeps up to date"):
        opened()
    with pytest.raises(UsageError, match="single file"):
        table_at(f"s3://{BUCKET}/activity.csv", columns=COLUMNS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(OutputError, match="cannot be reached"):
        opened()
