"""Whatever takes the merged rows gets the bytes of a pull to a local CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bulkpull import OutputError, events
from bulkpull.pull import orchestrator
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.sandbox import Sandbox
from tests.flows.test_resume import CONFIG, at, interrupted, pull
from tests.late_column import add_a_late_column


@dataclass
class InMemory:
    """A destination that keeps bytes and checkpoints, and shows them once they are published."""

    taken: bytes = b""
    checkpoints: list[int] = field(default_factory=list)
    takes: int = 0
    finished: str = ""
    published: bytes | None = None

    def check(self) -> None:
        if self.published is not None:
            raise OutputError("already published")

    def holds(self, receipt: str) -> bool:
        return self.published is not None and receipt == self.finished

    def take(self, merged: GrowingFile) -> None:
        self.taken, self.checkpoints, self.takes = b"", [], self.takes + 1
        while (final := merged.wait_beyond(merged.position)) > merged.position:
            while merged.position < final:
                self.taken += merged.read(final - merged.position)
            self.checkpoints.append(final)

    def finish(self, merged: Path) -> str:
        assert merged.read_bytes() == self.taken
        self.finished = f"{len(self.taken)} bytes"
        return self.finished

    def publish(self) -> None:
        self.published = self.taken

    def discard(self) -> None:
        self.taken = b""

    def close(self) -> None:
        pass


Use = Callable[[InMemory], InMemory]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets the pulls that follow write to this destination."""

    def use(destination: InMemory) -> InMemory:
        monkeypatch.setattr(orchestrator, "destination_for", lambda *_, **__: destination)
        return destination

    return use


async def test_gets_the_same_bytes_with_a_checkpoint_at_the_end_of_a_record(tmp_path: Path, use: Use) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.csv")
        destination = use(InMemory())
        result = await pull(sandbox, tmp_path / "b.csv")
    expected = (tmp_path / "a.csv").read_bytes()
    assert destination.published == expected
    assert result.rows == len(list(csv.reader(expected.decode().splitlines()))) - 1
    assert len(destination.checkpoints) > 1
    assert all(expected[checkpoint - 1 : checkpoint] == b"\n" for checkpoint in destination.checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.manifest.json"]


async def test_after_an_interruption_what_was_taken_before_comes_again_unchanged(tmp_path: Path, use: Use) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.csv")
        before = use(InMemory())
        await interrupted(sandbox, tmp_path / "b.csv", at(events.WindowMerged, 4), exports=4)
        after = use(InMemory())
        await pull(sandbox, tmp_path / "b.csv")
    expected = (tmp_path / "a.csv").read_bytes()
    assert before.published is None
    assert before.checkpoints
    assert expected.startswith(before.taken)
    assert after.published == expected
    assert max(before.checkpoints) <= after.checkpoints[0]


async def test_a_column_that_is_added_makes_it_take_everything_again(
    tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:

    add_a_late_column(monkeypatch)
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.csv", fields=None)
        destination = use(InMemory())
        await pull(sandbox, tmp_path / "b.csv", fields=None)
    assert destination.published == (tmp_path / "a.csv").read_bytes()
    assert destination.takes == 2


async def test_an_error_in_taking_ends_the_pull_and_the_next_run_resumes(tmp_path: Path, use: Use) -> None:
    class Full(InMemory):
        def take(self, merged: GrowingFile) -> None:
            merged.wait_beyond(0)
            raise OutputError("no space left")

    async with Sandbox(CONFIG) as sandbox:
        use(Full())
        with pytest.raises(OutputError, match="no space left"):
            await pull(sandbox, tmp_path / "a.csv")
        destination = use(InMemory())
        result = await pull(sandbox, tmp_path / "a.csv")
    assert (result.rows, result.runs, result.exports) == (8000, 2, sandbox.stats.exports)
    assert destination.published is not None
