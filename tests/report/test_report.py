"""A report shows what the result says, whatever state the pull is in, and nothing that is private."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from bulkpull import BulkpullError, OutputError, Result, pull, write_report
from bulkpull.cli import cli
from bulkpull.journal import Journal, JournalReader, Timeline, decoded, encoded
from bulkpull.report import report_page
from bulkpull.report.division import divide
from bulkpull.report.figures import PullFigures, figures_of
from bulkpull.store import WorkDirectory, manifest_path, read_manifest
from tests.journal.test_status import begun, contents
from tests.report.made import Made
from tests.simulation.clock import simulated
from tests.simulation.schedule import drawn, memory
from tests.simulation.server import SimulatedClickwrap

_VOID = {"meta", "link", "br", "line", "rect", "polyline", "polygon"}
_KILLED_AFTER_S = 20
_TROUBLED = 10  # a seed whose exports fail, and whose files have to be downloaded again


class Checked(HTMLParser):
    """Checks that a page is well-formed and loads nothing; gathers its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form", "img", "link"}
        for name, value in attributes:
            assert name not in {"src", "href", "srcset", "action", "data"} and not name.startswith("on")
            assert "url(" not in (value or "") and "//" not in (value or "")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def page_of(timeline: Timeline, name: str = "activity.csv", now: float | None = None) -> str:
    """A report that was checked."""
    page = report_page(timeline, Path(name), now=now)
    Checked(page)
    assert "url(" not in page and "@import" not in page
    return page


@pytest.fixture(scope="module")
def pulled() -> Iterator[tuple[Result, PullFigures, str]]:
    """A simulated pull with trouble: its result, its figures, and the report that it wrote."""
    server, options, _ = drawn(_TROUBLED, killed=False)

    with memory() as directory:
        out = directory / "activity.csv"
        report = directory / "report.html"

        async def main() -> Result:
            return await pull(SimulatedClickwrap(server), out=out, report=report, **options)

        result = simulated(_TROUBLED, main)
        yield result, figures_of(decoded(read_manifest(manifest_path(out)).timeline)), report.read_text()


def test_the_figures_are_those_of_the_result(pulled: tuple[Result, PullFigures, str]) -> None:
    result, figures, _ = pulled
    totals = figures.totals
    assert (totals.rows, totals.duplicates, totals.conflicts) == (result.rows, result.duplicates, result.conflicts)
    assert (len(figures.windows), len(figures.exports)) == (result.windows, result.exports)
    assert (figures.requests, figures.bytes, totals.parts) == (result.requests, result.bytes, result.parts)
    assert figures.is_published
    assert figures.elapsed == pytest.approx(result.seconds, abs=0.01)
    assert sum(divide(figures).values()) == pytest.approx(figures.elapsed)
    assert max(rate for _, rate in figures.requests_a_minute) <= figures.options.requests_per_minute
    assert figures.in_flight[-1][1] == 0
    merged_at, merged_rows = figures.merged_rows()[-1]
    assert (merged_at <= figures.elapsed, merged_rows) == (True, result.rows)
    # The seed has trouble, or the test would show less than it says.
    assert sum(export.failed is not None for export in figures.exports) > 0
    assert sum(one.count for one in figures.repeated if one.kind == "retried") == result.retries > 0


def test_the_pages_text_has_the_figures_and_says_what_failed(pulled: tuple[Result, PullFigures, str]) -> None:
    result, figures, page = pulled
    text = " ".join(Checked(page).text)
    assert "complete" in text
    for number in (result.rows, result.windows, result.exports, result.requests):
        assert f"{number:,}" in text
    for one in figures.repeated[:20]:
        assert one.reason in text


def test_a_timeline_survives_its_encoding(pulled: tuple[Result, PullFigures, str]) -> None:
    timeline = pulled[1].timeline
    assert decoded(encoded(timeline)) == timeline
    for damaged in ("", "AAAA", encoded(timeline)[:-8]):
        with pytest.raises(ValueError, match=r"cannot be read|padding|Incorrect"):
            decoded(damaged)


def test_all_runs_of_a_killed_pull_are_in_its_timeline() -> None:
    server, options, _ = drawn(_TROUBLED, killed=False)

    async def main(out: Path) -> Result:
        clickwrap = SimulatedClickwrap(server)
        with anyio.move_on_after(_KILLED_AFTER_S):
            await pull(clickwrap, out=out, **options)
        await anyio.sleep(10_000)
        return await pull(clickwrap, out=out, **options)

    with memory() as directory:
        out = directory / "a.csv"
        result = simulated(_TROUBLED, partial(main, out))
        figures = figures_of(decoded(read_manifest(manifest_path(out)).timeline))
    assert result.runs == len(figures.runs) == 2
    assert figures.runs[0].end == pytest.approx(_KILLED_AFTER_S, abs=5)
    assert figures.elapsed == pytest.approx(figures.runs[0].end + result.seconds, abs=0.01)  # without the pause
    assert (figures.totals.rows, len(figures.exports)) == (result.rows, result.exports)


def test_an_unfinished_pull_is_reported_without_disturbing_it(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    journal = begun(work)
    before = contents(work.path)
    running = write_report(work.output)
    assert contents(work.path) == before
    assert running == tmp_path / "a.csv.report.html"
    assert ">running<" in running.read_text()
    journal.close()
    work.release(remove=False)
    with closing(sqlite3.connect(work.journal)) as db:  # as an older version has written it
        db.execute("DROP TABLE moment")
    text = write_report(work.output, tmp_path / "b.html").read_text()
    Checked(text)
    assert ">unfinished<" in text
    with closing(JournalReader(work.journal)) as reader:
        assert reader.timeline().moments == ()
    Journal(work.journal).close()  # adds the table
    with closing(JournalReader(work.journal)) as reader:
        assert [window.counted for window in reader.timeline().windows] == [10]


def test_a_failed_pull_writes_its_report_too() -> None:
    server, options, _ = drawn(_TROUBLED, killed=False)

    def fail(_event: object) -> None:
        if len(server.tasks) > 3:
            raise BulkpullError("out of luck")

    with memory() as directory:
        out, report = directory / "a.csv", directory / "a.html"

        async def main() -> None:
            with pytest.raises(BulkpullError, match="out of luck"):
                await pull(SimulatedClickwrap(server), out=out, report=report, on_event=fail, **options)

        simulated(_TROUBLED, main)
        text = report.read_text()
    Checked(text)
    assert ">unfinished<" in text
    assert "Run the same command again to resume it." in text


def test_a_report_never_replaces_the_output() -> None:
    server, options, _ = drawn(_TROUBLED, killed=False)
    with memory() as directory:
        out = directory / "a.csv"

        async def main() -> None:
            with pytest.raises(OutputError, match="exists and is not a report"):
                await pull(SimulatedClickwrap(server), out=out, report=out, **options)

        simulated(_TROUBLED, main)
        assert out.read_bytes().startswith(b"id,")
        assert sorted(path.name for path in directory.iterdir()) == ["a.csv", "a.csv.manifest.json"]


def test_everything_is_escaped() -> None:
    made = Made(3)
    evil = "<script>alert(1)</script>&\"'"
    made.export(0, 0.0, 5.0, failed=evil)
    made.add(6.0, "retried", None, 1.0, None, evil)
    made.add(7.0, "ended", None, 0)
    page = page_of(made.timeline(), f"{evil}.csv".replace("/", ""))
    assert "<script" not in page


@pytest.mark.parametrize("windows", [1, 10_000])
def test_the_page_stays_small(windows: int) -> None:
    made = Made(windows, exports=50)
    for window in range(windows):
        launched = window // 50 * 60.0 + window % 50 * 0.2
        ready = launched + 30 + window * 7 % 29
        made.export(window, launched, ready, running=launched + 5, downloading=ready + 1, downloaded=ready + 3)
        made.add(launched, "traffic", None, 5, 10_000)
        made.merge(window, launched + 62 + window % 50 * 0.001, launched + 63 + window % 50 * 0.001)
    made.add(windows // 50 * 60.0 + 200, "ended", None, 1)
    timeline = made.timeline()
    page = page_of(timeline)
    assert len(page.encode()) < 1_000_000
    assert len(encoded(timeline)) < 2_000_000


@pytest.mark.parametrize("moments", ["none", "planned", "one"])
def test_a_pull_that_has_hardly_begun_has_a_page(moments: str) -> None:
    made = Made(1)
    if moments == "none":
        made.moments.clear()
    if moments == "one":
        made.add(1.0, "launched", 0)
    page_of(made.timeline(), now=1_700_000_010.0)


def test_what_is_not_a_report_is_not_replaced(tmp_path: Path) -> None:
    notes = tmp_path / "notes.html"
    notes.write_text("<!doctype html>mine")
    with pytest.raises(OutputError, match="exists and is not a report"):
        write_report(tmp_path / "a.csv", notes)
    with pytest.raises(OutputError, match="there is no directory"):
        write_report(tmp_path / "a.csv", tmp_path / "missing" / "a.html")
    with pytest.raises(OutputError, match=r"neither an unfinished pull .* nor a manifest"):
        write_report(tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.html"]


def test_the_command_prints_where_the_report_is(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    begun(work).close()
    done = CliRunner().invoke(cli, ["report", str(work.output), "--to", str(tmp_path / "b.html")])
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'b.html'}\n")
    assert "<h1>a.csv</h1>" in (tmp_path / "b.html").read_text()
