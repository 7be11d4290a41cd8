"""The recipes that read a data set give its current rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkpull.tables import table_at
from tests.docs.examples import ROOT, blocks
from tests.tables.places import COLUMNS
from tests.tables.test_files import DAY, deliver
from tests.tables.test_tables import row

PAGE = ROOT / "docs" / "how-to" / "sync-dataset.md"


def test_recipes_read_the_current_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = table_at("activity/", columns=COLUMNS)
    table.open(create=True)
    deliver(table, tmp_path, [row("a"), row("b"), row("c", 40 * DAY)])
    deliver(table, tmp_path, [row("a", 0, "new"), row("c", 40 * DAY)])
    table.close()
    assert len([*Path("activity").rglob("*.parquet")]) == 3
    recipes = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert len(recipes) == 2
    for recipe in recipes:
        names: dict[str, list[tuple[object, ...]]] = {}
        exec(recipe, names)  # noqa: S102
        assert sorted((found[0], found[2]) for found in names["rows"]) == [("a", "new"), ("c", "v")]
