"""`--fields all`: the columns are those that the site offers when the pull begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkpull import Clickwrap, UsageError, events
from bulkpull.sandbox import Sandbox
from bulkpull.sandbox.data import FIELDS
from tests.flows.test_resume import CONFIG, at, interrupted, pull


def header(path: Path) -> list[str]:
    with path.open() as file:
        return file.readline().rstrip("\n").split(",")


async def test_takes_every_field_of_the_site(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        result = await pull(sandbox, tmp_path / "all.csv", fields=["all"], site="5193")
        await pull(sandbox, tmp_path / "named.csv", fields=list(FIELDS))
    assert set(header(tmp_path / "all.csv")) == {"id", "signer_id", "created_time", *FIELDS}
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "named.csv").read_bytes()
    assert result.rows == 8000


async def test_a_resumed_pull_keeps_the_columns_when_the_site_offers_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 3), fields=["all"], site=5193)
        offered = Clickwrap.export_fields

        async def more(self: Clickwrap, site: str | int) -> list[str]:
            return [*await offered(self, site), "custom_data.new"]

        monkeypatch.setattr(Clickwrap, "export_fields", more)
        result = await pull(sandbox, out, fields=["all"], site=5193)
    assert result.runs == 2
    assert set(header(out)) == {"id", "signer_id", "created_time", *FIELDS}


async def test_all_and_a_list_are_different_pulls(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    async with Sandbox(CONFIG) as sandbox:
        await interrupted(sandbox, out, at(events.WindowMerged, 3))
        with pytest.raises(UsageError, match=r"fields is all instead of id,signer_id,created_time,custom_data.vip"):
            await pull(sandbox, out, fields=["all"], site=5193)
        await interrupted(sandbox, out, at(events.WindowMerged, 3), fields=["all"], site=5193, resume=False)
        with pytest.raises(UsageError, match=r"fields is \(none\) instead of all:id,"):
            await pull(sandbox, out, fields=None)


async def test_needs_a_site(tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(UsageError, match="--fields all needs --site ID"):
            await pull(sandbox, tmp_path / "a.csv", fields=["all"])
        assert not sandbox.stats.requests
