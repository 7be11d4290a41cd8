"""A pull into a table, once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import bulkpull
from bulkpull import LoadOptions
from bulkpull.errors import ShrinkError, UsageError
from tests.sync.site import FIELDS, START, a_site, fail_exports

DAY = timedelta(days=1)


async def test_ranges_are_added_and_replaced(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=200) as site:
        options = LoadOptions(start=START, end=START + 50 * DAY, to=site.table, fields=FIELDS, state=tmp_path)
        found = await bulkpull.load(site.clickwrap, **options.asdict())
        assert (found.rows, found.output, found.exports) == (len(site.table.rows), "memory", 1)
        assert site.held() == site.expected(START + 50 * DAY)
        later = {"start": START + 50 * DAY, "end": START + 100 * DAY}
        await bulkpull.load(site.clickwrap, **options.asdict() | later)
        site.delete(next(iter(site.activity)))
        for bounds in ({}, later):
            await bulkpull.load(site.clickwrap, **options.asdict() | bounds)
        assert site.held() == site.expected(START + 100 * DAY)
        assert site.table.committed is None
        assert list(tmp_path.iterdir()) == []
        site.activity.clear()
        site.publish()
        with pytest.raises(ShrinkError):
            await bulkpull.load(site.clickwrap, **options.asdict() | {"max_shrink_rows": 10})


async def test_windows_that_were_skipped_are_left_as_they_are(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=100) as site:
        options = LoadOptions(
            start=START, end=START + 100 * DAY, to=site.table, fields=FIELDS, window="20d", state=tmp_path
        )
        await bulkpull.load(site.clickwrap, **options.asdict())
        before = site.held()
        site.delete(*list(site.activity)[:50])
        fail_exports(site, lambda filter: "2024-01-21" in filter)
        found = await bulkpull.load(site.clickwrap, **options.asdict() | {"skip_failed": True, "max_extra_exports": 4})
        left = {
            id
            for id, row in before.items()
            if any(
                window.start.isoformat()[:19] <= str(row["created_time"])[:19] < window.end.isoformat()[:19]
                for window in found.skipped
            )
        }
        assert left
        assert set(site.held()) == set(site.activity) | left


async def test_a_table_that_is_synced_is_not_loaded_into(tmp_path: Path) -> None:
    async with a_site(tmp_path, rows=10) as site:
        await site.sync(START + 100 * DAY)
        with pytest.raises(UsageError, match="is kept up to date by a sync"):
            await bulkpull.load(site.clickwrap, start=START, to=site.table, state=tmp_path)
        assert not site.table.is_open
