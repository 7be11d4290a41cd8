"""Fetching over real sockets from hosts that break off, forget, change their files and lie."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from xxhash import xxh3_128

from bulkpull import (
    Clickwrap,
    Export,
    MalformedPartError,
    OutputError,
    PartError,
    RetryPolicy,
    Window,
    patience,
)
from bulkpull.download import transfer
from bulkpull.download.fetch import fetch
from bulkpull.download.transfer import MAX_ASKED, MAX_MALFORMED, MAX_RENEWALS, Meter
from bulkpull.events import Event, PartFetched, Received, Retried
from bulkpull.journal import Journal, PartRecord
from bulkpull.pull.journey import ExportFailure, Part
from bulkpull.pull.links import Links, part_records


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


WINDOW = Window(0, datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
ROWS = b"id,v\n" + b"".join(b"%024x,value %d\n" % (row, row) for row in range(20_000))
RETRY = RetryPolicy(attempts=6, base=0, cap=0)
END = f"bytes={len(ROWS)}-"  # asks whether there is more
Answer = Callable[[web.Request, "Host"], Awaitable[web.StreamResponse]]


@dataclass
class Host:
    """A file host and the API beside it; `answers` are used up one request after another, the last one for good."""

    answers: list[Answer]
    requests: list[str | None] = field(default_factory=list)  # the Range of each
    renewals: int = 0
    links: int = 1
    url: str = ""

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.headers.get("Range"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request, self)

    async def export(self, _request: web.Request) -> web.Response:
        self.renewals += 1
        links = [self.link(number) for number in range(self.links)]
        return web.json_response({"data": {"id": "e", "status": "success", "links": links}})

    def link(self, number: int = 0) -> str:
        return f"{self.url}/files/{number}?signature={self.renewals}"


def whole(body: bytes = ROWS, etag: str | None = '"v1"', status: int = 200) -> Answer:
    async def answer(_request: web.Request, _host: Host) -> web.Response:
        return web.Response(body=body, status=status, headers={"ETag": etag} if etag else {})

    return answer


def broken(
    upto: int,
    *,
    begin: int = 0,
    body: bytes = ROWS,
    etag: str | None = '"v1"',
    total: int | None = None,
    chunked: bool = False,
) -> Answer:
    """Sends body[begin:upto], promises the rest, and closes the connection."""

    async def answer(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(status=206 if begin else 200, headers={"ETag": etag} if etag else {})
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{total or len(body)}"
        if not chunked:
            response.content_length = len(body) - begin
        await response.prepare(request)
        await response.write(body[begin:upto])
        await anyio.sleep(0.05)  # so that it arrives before the connection goes
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def rest(*, body: bytes = ROWS, etag: str | None = '"v1"', total: int | None = None) -> Answer:
    """Grants whatever range is asked for."""

    async def answer(request: web.Request, _host: Host) -> web.Response:
        begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if begin >= len(body):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        headers = {"Content-Range": f"bytes {begin}-{len(body) - 1}/{total or len(body)}"}
        return web.Response(status=206, body=body[begin:], headers=headers | ({"ETag": etag} if etag else {}))

    return answer


async def fetched(
    directory: Path,
    host: Host,
    *,
    journal: Journal | None = None,
    record: PartRecord | None = None,
    streams: int = 1,
    retry: RetryPolicy = RETRY,
) -> tuple[bytes, list[Event]]:
    """The part that comes of the host's answers, and what was announced; `record` is what an earlier run left."""
    heard: list[Event] = []
    journal = journal or Journal(directory / "journal.sqlite")
    app = web.Application()
    app.router.add_get("/files/{number}", host.file)
    app.router.add_get("/v1.1/tasks/export/e", host.export)
    async with TestServer(app) as server:
        host.url = str(server.make_url("")).rstrip("/")
        async with Clickwrap("t", base_url=f"{host.url}/v1.1", retry=retry, stall_timeout=0.5) as clickwrap:
            export = Export("e", "succeeded", links=tuple(host.link(number) for number in range(host.links)))
            records = part_records(export)
            if record is None:
                journal.record_success(WINDOW, "e", records)
            else:
                export = Export("e", "succeeded")
            part = Part(WINDOW, 1, directory / "part.csv", record or records[0])
            try:
                links = Links(clickwrap, export, records)
                limiter, meter = anyio.CapacityLimiter(streams), Mock(spec=Meter)
                size = await fetch(clickwrap, part, links, journal, streams=limiter, meter=meter, on_event=heard.append)
            finally:
                journal.close()
    body = part.path.read_bytes()
    assert part.size == size == len(body)
    assert [call.args[0] for call in meter.record_bytes.call_args_list] == [
        event.size for event in heard if isinstance(event, Received)
    ]
    assert meter.record_break.call_count == sum(isinstance(event, Retried) for event in heard)
    assert heard[-1] == PartFetched(WINDOW, 1, len(body))
    return body, heard


async def test_a_whole_file(tmp_path: Path) -> None:
    host = Host([whole()])
    body, heard = await fetched(tmp_path, host)
    assert body == ROWS
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)
    assert host.requests == [None]


async def test_a_broken_transfer_goes_on_where_it_broke(tmp_path: Path) -> None:
    host = Host([broken(100_000), broken(300_000, begin=100_000), rest()])
    body, heard = await fetched(tmp_path, host)
    assert body == ROWS
    assert host.requests == [None, "bytes=100000-", "bytes=300000-"]
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)  # no byte twice
    assert len([event for event in heard if isinstance(event, Retried)]) == 2


async def test_attempts_start_anew_as_long_as_the_transfer_comes_on(tmp_path: Path) -> None:
    steps = range(70_000, len(ROWS), 70_000)
    host = Host([broken(70_000), *(broken(step + 70_000, begin=step) for step in steps[:-1]), rest()])
    assert len(host.answers) > 4
    assert (await fetched(tmp_path, host))[0] == ROWS


async def test_a_host_without_ranges_starts_the_file_again(tmp_path: Path) -> None:
    host = Host([broken(100_000), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS


async def test_without_a_strong_etag_no_range_is_asked_for(tmp_path: Path) -> None:
    host = Host([broken(100_000, etag='W/"v1"'), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, None]


OTHER = ROWS.replace(b"value", b"VALUE")


@pytest.mark.parametrize("etag", ['"v2"', None])
async def test_a_range_of_a_changed_file_is_not_spliced_in(tmp_path: Path, etag: str | None) -> None:
    host = Host([broken(100_000), rest(body=OTHER, etag=etag), whole(OTHER, '"v2"')])
    assert (await fetched(tmp_path, host))[0] == OTHER
    assert host.requests == [None, "bytes=100000-", None]


async def test_a_file_that_changed_its_length_is_not_spliced_in(tmp_path: Path) -> None:
    host = Host([broken(100_000), rest(total=len(ROWS) + 1), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS


async def test_another_range_than_was_asked_for_is_not_spliced_in(tmp_path: Path) -> None:
    host = Host([broken(100_000), broken(len(ROWS), begin=99_999), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS


async def test_a_416_tells_that_everything_came_before_the_connection_broke(tmp_path: Path) -> None:
    host = Host([broken(len(ROWS), chunked=True), rest()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, END]


async def test_a_416_that_does_not_say_why_starts_the_file_again(tmp_path: Path) -> None:
    host = Host([broken(len(ROWS), chunked=True), whole(b"", status=416), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, END, None]


async def test_a_body_that_was_cut_in_a_record_together_with_its_length_is_completed(tmp_path: Path) -> None:
    cut = len(ROWS) // 2
    host = Host([whole(ROWS[:cut]), rest()])
    body, heard = await fetched(tmp_path, host)
    assert body == ROWS
    assert host.requests == [None, f"bytes={cut}-"]
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)


async def test_a_body_that_was_cut_together_with_its_length_is_known_by_the_length_told_before(tmp_path: Path) -> None:
    cut = ROWS.index(b"\n", 200_000) + 1
    host = Host([broken(100_000), whole(ROWS[:cut]), rest()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, "bytes=100000-", f"bytes={cut}-"]


async def test_a_file_that_was_told_too_long_once_is_believed_in_the_end(tmp_path: Path) -> None:
    host = Host([broken(100_000, body=ROWS * 2), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 3


WITHOUT_LAST_NEWLINE = ROWS[:-1]


@pytest.mark.parametrize(
    "answer",
    [
        whole(WITHOUT_LAST_NEWLINE),
        whole(b"<html>Busy</html>", None),
        whole(b"", status=416),
        whole(b"", status=403),
        whole(b"", status=405),
        whole(b"", status=500),
        whole(b""),
        whole(WITHOUT_LAST_NEWLINE[:-100], '"v2"'),
    ],
)
async def test_no_answer_to_the_question_for_more_does_harm(tmp_path: Path, answer: Answer) -> None:
    host = Host([whole(WITHOUT_LAST_NEWLINE), answer])
    assert (await fetched(tmp_path, host))[0] == WITHOUT_LAST_NEWLINE
    # Where the range was refused, the whole is asked for, for its length; where nothing was said, a few times.
    assert host.requests[:2] == [None, f"bytes={len(WITHOUT_LAST_NEWLINE)}-"]
    assert len(host.requests) <= 1 + MAX_ASKED


async def test_a_longer_file_is_taken_instead_though_its_etag_is_another(tmp_path: Path) -> None:
    host = Host([whole(ROWS[:200_005]), whole(ROWS, '"v2"')])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, "bytes=200005-"]


async def test_a_line_without_end_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_RECORD", 8_000_000)
    sent = 0

    async def endless(request: web.Request, _host: Host) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1_000_000)
            sent += 1_000_000

    with pytest.raises(ExportFailure, match="the record is longer"):
        await fetched(tmp_path, Host([endless]))
    assert sent < MAX_MALFORMED * 2 * 8_000_000


async def test_a_host_that_always_breaks_at_the_same_place_is_given_up(tmp_path: Path) -> None:
    host = Host([broken(100_000, etag=None)])
    with pytest.raises(PartError, match=r"window 1 .*, part 1 could not be downloaded: .*the body ended early"):
        await fetched(tmp_path, host)
    assert len(host.requests) <= 7


async def test_a_stalled_stream_is_noticed_by_its_silence(tmp_path: Path) -> None:
    async def stall(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"v1"'})
        response.content_length = len(ROWS)
        await response.prepare(request)
        await response.write(ROWS[:100_000])
        await anyio.sleep(30)
        return response

    host = Host([stall, rest()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, "bytes=100000-"]


async def test_a_slow_stream_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    async def slow(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        for at in range(0, 1000, 200):  # longer in all than the stall timeout
            await response.write(ROWS[at : at + 200])
            await anyio.sleep(0.2)
        return response

    assert (await fetched(tmp_path, Host([slow])))[0] == ROWS[:1000]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_expired_link_is_renewed(tmp_path: Path, status: int) -> None:
    async def expired(request: web.Request, host: Host) -> web.Response:
        if request.query["signature"] == "0":
            return web.Response(status=status, text="<Error><Code>AccessDenied</Code></Error>")
        return web.Response(body=ROWS)

    host = Host([expired])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.renewals == 1


async def test_a_link_that_expires_in_mid_transfer_costs_no_byte_twice(tmp_path: Path) -> None:
    host = Host([broken(200_000), whole(b"", status=403), rest()])
    _, heard = await fetched(tmp_path, host)
    assert host.renewals == 1
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)


async def test_links_that_are_never_good_are_given_up(tmp_path: Path) -> None:
    host = Host([whole(b"", status=403)])
    with pytest.raises(ExportFailure, match=r"part 1 is gone: .* 403 to 5 fresh links"):
        await fetched(tmp_path, host)
    assert host.renewals == MAX_RENEWALS


async def test_single_use_links_and_a_host_that_always_breaks_come_to_an_end(tmp_path: Path) -> None:
    used: set[str] = set()
    breaking = broken(100_000, etag=None)

    async def once(request: web.Request, host: Host) -> web.StreamResponse:
        if request.query["signature"] in used:
            return web.Response(status=403)
        used.add(request.query["signature"])
        return await breaking(request, host)

    host = Host([once])
    with pytest.raises((PartError, ExportFailure)):
        await fetched(tmp_path, host)
    assert host.renewals <= 2 * MAX_RENEWALS


async def test_an_export_whose_links_have_become_fewer_will_not_do(tmp_path: Path) -> None:
    async def expired(_request: web.Request, host: Host) -> web.Response:
        host.links = 0
        return web.Response(status=403)

    with pytest.raises(ExportFailure, match="had 1 links and now has 0"):
        await fetched(tmp_path, Host([expired]))


@pytest.mark.parametrize(
    "page",
    [b"<html>Sign in</html>", b'<?xml version="1.0"?><Error/>', b'{"error": {"message": "no"}}', b"name,v\n1,2\n"],
)
async def test_what_is_no_csv_is_asked_for_again_and_then_an_error(tmp_path: Path, page: bytes) -> None:
    host = Host([whole(page)])
    with pytest.raises(ExportFailure, match=r"part 1: .*something else than a CSV") as failure:
        await fetched(tmp_path, host)
    assert failure.value.kind is MalformedPartError
    assert host.renewals == MAX_MALFORMED - 1


async def test_an_error_page_that_passes_does_no_harm(tmp_path: Path) -> None:
    host = Host([whole(b"<html>Busy</html>" * 100_000), whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS


async def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "part.csv").mkdir()  # nothing can be written there
    with pytest.raises(OutputError, match=r"cannot spool to part\.csv"):
        await fetched(tmp_path, Host([whole()]))


async def test_links_are_renewed_once_for_all_parts_and_matched_by_their_file() -> None:
    class Renewing:
        asked = 0

        async def get_export(self, export_id: str) -> Export:
            self.asked += 1
            await anyio.sleep(0.01)
            return Export(export_id, "succeeded", links=("https://f/b?2", "https://f/a?2"))  # another order

    api = Renewing()
    export = Export("e", "succeeded", links=("https://f/a?1", "https://f/b?1"))
    records = part_records(export)
    for links, asked in ((Links(api, export, records), 1), (Links(api, Export("e", "succeeded"), records), 2)):  # type: ignore[arg-type]
        found: dict[int, str] = {}

        async def get(number: int, expired: str, links: Links = links, found: dict[int, str] = found) -> None:
            part = Part(WINDOW, number, Path(), records[number - 1])
            found[number] = await links.get(part, expired=expired)

        async with anyio.create_task_group() as group:
            group.start_soon(get, 1, "https://f/a?1")
            group.start_soon(get, 2, "https://f/b?1")
        assert api.asked == asked
        assert found == {1: "https://f/a?2", 2: "https://f/b?2"}


async def test_what_an_earlier_run_fetched_whole_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS)
    record = PartRecord(1, "name", "e", size=len(ROWS), checksum=xxh3_128(ROWS).hexdigest())
    host = Host([whole()])
    body, heard = await fetched(tmp_path, host, record=record)
    assert body == ROWS
    assert heard == [PartFetched(WINDOW, 1, len(ROWS))]
    assert not host.requests
    assert not host.renewals


@pytest.mark.parametrize("left", [ROWS[:-1], ROWS.replace(b"1", b"2", 1), None])
async def test_a_part_that_is_not_what_the_journal_says_is_fetched_again(tmp_path: Path, left: bytes | None) -> None:
    if left is not None:
        (tmp_path / "part.csv").write_bytes(left)
    record = PartRecord(1, "name", "e", size=len(ROWS), checksum=xxh3_128(ROWS).hexdigest())
    host = Host([whole()])
    assert (await fetched(tmp_path, host, record=record))[0] == ROWS
    assert host.renewals == 1


@pytest.mark.parametrize("left", [1, 300_000, len(ROWS)])
async def test_half_a_part_goes_on_from_its_last_byte_in_the_next_run(tmp_path: Path, left: int) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS[:left])
    host = Host([rest()])
    record = PartRecord(1, "name", "e", validator='"v1"', length=len(ROWS))
    body, heard = await fetched(tmp_path, host, record=record)
    assert body == ROWS
    assert host.requests == ([] if left == len(ROWS) else [f"bytes={left}-"])
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS) - left


async def test_half_a_part_whose_file_has_changed_is_begun_anew_in_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS[:300_000])
    record = PartRecord(1, "name", "e", validator='"v1"', length=len(ROWS))
    assert (await fetched(tmp_path, Host([whole(OTHER, '"v2"')]), record=record))[0] == OTHER


async def test_more_than_the_file_holds_is_begun_anew_in_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS + b"more")
    record = PartRecord(1, "name", "e", validator='"v1"', length=len(ROWS))
    assert (await fetched(tmp_path, Host([whole()]), record=record))[0] == ROWS


async def test_the_journal_knows_under_which_validator_a_part_may_go_on(tmp_path: Path) -> None:
    large = b"id\n" + b"x" * 100 + b"\n" + b"0123456789\n" * 300_000
    path = tmp_path / "journal.sqlite"
    seen: list[PartRecord] = []

    async def pausing(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"v1"'})
        response.content_length = len(large)
        await response.prepare(request)
        await response.write(large[:2_500_000])
        await anyio.sleep(0.2)
        other = Journal(path)  # what another process would find
        seen.extend(other.exports()[0][0].parts)
        other.close()
        await response.write(large[2_500_000:])
        return response

    journal = Journal(path)
    launch = journal.record_launch(WINDOW)
    journal.record_export(launch, "e")
    assert (await fetched(tmp_path, Host([pausing, whole(large)]), journal=journal))[0] == large
    [record] = seen
    assert (record.validator, record.length, record.size) == ('"v1"', len(large), None)
    after = Journal(path)
    [record] = after.exports()[0][0].parts
    assert (record.size, record.checksum) == (len(large), xxh3_128(large).hexdigest())
    after.close()


# What the journal knows of half a part


async def test_the_journal_knows_a_part_that_broke_off_in_its_first_megabyte(tmp_path: Path) -> None:
    host = Host([broken(100_000), whole(b"", status=500)])
    with pytest.raises(PartError):
        await fetched(tmp_path, host, retry=RetryPolicy(attempts=3, base=0, cap=0))
    journal = Journal(tmp_path / "journal.sqlite")
    [(validator, length)] = journal._rows("SELECT validator, length FROM part")
    journal.close()
    assert (validator, length) == ('"v1"', len(ROWS))
    assert (tmp_path / "part.csv").read_bytes() == ROWS[:100_000]


async def test_slow_bytes_reach_the_disk_and_the_journal_before_they_are_a_megabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WRITE_SECONDS", 0.05)

    async def slow(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"v1"'})
        response.content_length = len(ROWS)
        await response.prepare(request)
        for at in range(0, 30_000, 1000):
            await response.write(ROWS[at : at + 1000])
            await anyio.sleep(0.02)
        await anyio.sleep(30)
        return response

    with anyio.move_on_after(0.6):
        await fetched(tmp_path, Host([slow]))
    assert (tmp_path / "part.csv").stat().st_size >= 3000
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal._rows("SELECT validator FROM part") == [('"v1"',)]
    journal.close()


async def test_a_file_that_comes_in_one_go_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(Journal, "transferring", lambda *arguments: recorded.append(arguments))
    assert (await fetched(tmp_path, Host([whole()])))[0] == ROWS
    assert not recorded


# Ranges


@pytest.mark.parametrize("outage", [1, 2, 3, 4, 5, 6])
async def test_an_outage_costs_no_byte_twice(tmp_path: Path, outage: int) -> None:
    """Requests for the rest and for the whole fail alike: that does not speak against ranges."""

    async def out(request: web.Request, host: Host) -> web.StreamResponse:
        if len(host.requests) < outage + 2:
            return web.Response(status=503)
        return await (rest() if "Range" in request.headers else whole())(request, host)

    host = Host([broken(300_000), out])
    _, heard = await fetched(tmp_path, host, retry=RetryPolicy(attempts=20, base=0, cap=0))
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)


async def test_a_file_in_chunks_goes_on_where_it_broke(tmp_path: Path) -> None:
    host = Host([broken(300_000, chunked=True), rest()])
    _, heard = await fetched(tmp_path, host)
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(ROWS)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 416, 500, 501, 503])
async def test_a_host_that_refuses_all_ranges_is_asked_for_the_whole_file(tmp_path: Path, status: int) -> None:
    async def rangeless(request: web.Request, host: Host) -> web.StreamResponse:
        return web.Response(status=status) if "Range" in request.headers else await whole()(request, host)

    host = Host([broken(300_000), rangeless])
    _, heard = await fetched(tmp_path, host)
    assert len(host.requests) <= 6
    assert sum(event.size for event in heard if isinstance(event, Received)) == 300_000 + len(ROWS)


async def test_an_empty_body_does_not_pass_for_a_file_that_began(tmp_path: Path) -> None:
    for directory, etag in ((tmp_path / "a", '"v1"'), (tmp_path / "b", None)):
        directory.mkdir()
        host = Host([broken(100_000, etag=etag), whole(b"", etag), whole(b"", etag), whole()])
        assert (await fetched(directory, host))[0] == ROWS


async def test_a_new_etag_with_every_request_is_bounded_by_the_policy(tmp_path: Path) -> None:
    async def restless(request: web.Request, host: Host) -> web.StreamResponse:
        return await broken(len(ROWS) - len(host.requests) * 1000, etag=f'"{len(host.requests)}"')(request, host)

    host = Host([restless])
    with pytest.raises(PartError):
        await fetched(tmp_path, host)
    assert len(host.requests) <= 10


# The end of a body


def until_close(body: bytes, etag: str | None = '"v1"', version: str = "1.0") -> Answer:
    """A body without a length, which ends with the connection."""

    async def answer(request: web.Request, _host: Host) -> web.Response:
        assert request.transport is not None
        head = f"HTTP/{version} 200 OK\r\nConnection: close\r\n" + (f"ETag: {etag}\r\n" if etag else "")
        request.transport.write(f"{head}\r\n".encode() + body)
        request.transport.close()
        return web.Response()

    return answer


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("second", [rest(), whole(), whole(b"", status=500), whole(b"")])
async def test_a_body_whose_end_is_not_told_is_asked_about(tmp_path: Path, version: str, second: Answer) -> None:
    host = Host([until_close(ROWS, version=version), second])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests[:2] == [None, END]
    assert len(host.requests) <= 1 + MAX_ASKED  # again where nothing was said


async def test_a_body_that_was_cut_where_its_end_is_not_told_is_completed(tmp_path: Path) -> None:
    cut = ROWS.index(b"\n", 200_000) + 1
    for second in (rest(), whole()):
        assert (await fetched(tmp_path, Host([until_close(ROWS[:cut]), second, second])))[0] == ROWS
        (tmp_path / "journal.sqlite").unlink()


async def test_a_body_that_was_cut_in_a_record_without_an_etag_is_fetched_anew(tmp_path: Path) -> None:
    host = Host([whole(ROWS[:200_000], None), whole(etag=None)])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert host.requests == [None, None]


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
async def test_a_file_without_anything_is_whole(tmp_path: Path, body: bytes) -> None:
    assert (await fetched(tmp_path, Host([whole(body)])))[0] == body


# Hosts that are slow, or not ready


async def drip(request: web.Request, first: bytes, headers: dict[str, str] | None = None) -> web.StreamResponse:
    """Sends a byte now and then, for ever."""
    response = web.StreamResponse(headers=headers or {"ETag": '"v1"'})
    await response.prepare(request)
    await response.write(first)
    while True:
        await response.write(b"x")
        await anyio.sleep(0.02)


@pytest.mark.parametrize("kind", ["bytes", "a gzip header without end"])
async def test_a_host_that_drips_for_ever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(transfer, "SLOW_SECONDS", 0.3)

    async def dripping(request: web.Request, _host: Host) -> web.StreamResponse:
        if kind == "bytes":
            return await drip(request, ROWS[:1000])
        return await drip(request, b"\x1f\x8b\x08\x08" + b"\0" * 6)  # its name of a file never ends

    with anyio.fail_after(10), pytest.raises(PartError, match="too slow"):
        await fetched(tmp_path, Host([dripping]), retry=RetryPolicy(seconds=0.4, base=0.01))


@pytest.mark.parametrize("status", [202, 204, 404, 409, 425])
async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path, status: int) -> None:
    host = Host([*[whole(b'{"status": "preparing"}', None, status)] * 3, whole()])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 4
    assert host.renewals == (status == 404)


@pytest.mark.parametrize("status", [204, 404, 409, 425])
async def test_a_file_that_never_comes_costs_an_export(tmp_path: Path, status: int) -> None:
    host = Host([whole(b"", None, status)])
    with anyio.fail_after(10), pytest.raises(ExportFailure, match=f"part 1 is not there: .*{status}"):
        await fetched(tmp_path, host)
    assert 4 < len(host.requests) < 20


async def test_a_host_that_says_for_ever_that_the_file_will_come_is_given_up(tmp_path: Path) -> None:
    host = Host([whole(b'{"status": "preparing"}', None, 202)])
    with anyio.fail_after(10), pytest.raises(PartError, match=r"not got the file yet .*--retry-for"):
        await fetched(tmp_path, host, retry=RetryPolicy(seconds=0.5, base=0, cap=0.1))
    assert 6 < len(host.requests) < 30


@pytest.mark.parametrize("before", [[], [broken(200_000)]])
async def test_a_wait_beyond_the_limit_is_an_error_at_once(tmp_path: Path, before: list[Answer]) -> None:
    async def busy(_request: web.Request, _host: Host) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "86400"})

    with (
        anyio.fail_after(5),
        pytest.raises(PartError, match=r"127\.0\.0\.1 answered 503, and it asks to wait 86,400 s"),
    ):
        await fetched(tmp_path, Host([*before, busy]))


# Compressed and zipped files


async def test_a_damaged_gzip_costs_a_new_download(tmp_path: Path) -> None:
    body = gzip.compress(ROWS)
    host = Host([whole(body[:-100]), whole(body)])
    assert (await fetched(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 2


async def test_a_gzip_that_is_always_damaged_costs_an_export(tmp_path: Path) -> None:
    host = Host([whole(gzip.compress(ROWS)[:-100])])
    with pytest.raises(ExportFailure, match="the compressed body ended early") as failure:
        await fetched(tmp_path, host)
    assert failure.value.kind is MalformedPartError
    assert len(host.requests) == MAX_MALFORMED


def zipped(*files: tuple[str, bytes], **options: Any) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        zipped(("activity.csv", ROWS)),
        zipped(("activity.csv", ROWS), compression=zipfile.ZIP_DEFLATED),
        zipped(("../../etc/passwd", ROWS), compression=zipfile.ZIP_BZIP2),
        zipped(("folder/", b""), ("folder/a.csv", ROWS), ("__MACOSX/folder/._a.csv", b"\0\1")),
    ],
    ids=["stored", "deflated", "bzip2", "macos"],
)
async def test_a_zip_with_one_file_is_that_file(tmp_path: Path, body: bytes) -> None:
    got, _ = await fetched(tmp_path, Host([whole(body)]))
    assert got == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.sqlite", "part.csv"]
    journal = Journal(tmp_path / "journal.sqlite")
    [found] = journal._rows("SELECT validator, size, checksum FROM part")
    journal.close()
    assert found == (None, len(ROWS), xxh3_128(ROWS).hexdigest())


async def test_a_zip_that_breaks_off_goes_on_where_it_broke(tmp_path: Path) -> None:
    body = zipped(("activity.csv", ROWS))
    host = Host([broken(300_000, body=body), rest(body=body)])
    got, heard = await fetched(tmp_path, host)
    assert got == ROWS
    assert sum(event.size for event in heard if isinstance(event, Received)) == len(body)


def encrypted(body: bytes) -> bytes:
    """With the flag that says so."""
    at = body.index(b"PK\x01\x02")
    return body[:6] + b"\x01" + body[7 : at + 8] + b"\x01" + body[at + 9 :]


def unknown_method(body: bytes) -> bytes:
    at = body.index(b"PK\x01\x02")
    return body[:8] + b"\x63" + body[9 : at + 10] + b"\x63" + body[at + 11 :]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (zipped(("a.csv", ROWS), ("b.csv", ROWS)), "a zip with 2 files"),
        (zipped(), "a zip with 0 files"),
        (zipped(("folder/", b"")), "a zip with 0 files"),
        (encrypted(zipped(("a.csv", ROWS))), "an encrypted zip"),
        (unknown_method(zipped(("a.csv", ROWS))), "a zip that cannot be unpacked"),
        (zipped(("a.csv", b" " * 40_000_000), compression=zipfile.ZIP_DEFLATED), "a zip of .* expand to more than"),
        (zipped(("a.zip", zipped(("a.csv", ROWS)))), "a zip in a zip"),
    ],
    ids=["two", "empty", "folder", "encrypted", "method", "bomb", "zip"],
)
async def test_other_zips_are_refused_at_once_as_what_they_are(tmp_path: Path, body: bytes, reason: str) -> None:
    host = Host([whole(body)])
    with pytest.raises(PartError, match=f"window 1 .*, part 1: the file host .*{reason}"):
        await fetched(tmp_path, host)
    assert len(host.requests) == 1
    assert not list(tmp_path.glob("*.unzipped"))


@pytest.mark.parametrize("spoil", [lambda body: body[:-5000], lambda body: body[:200] + b"?" * 500 + body[700:]])
async def test_a_damaged_zip_costs_a_new_download(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    body = zipped(("activity.csv", ROWS), compression=zipfile.ZIP_DEFLATED)
    host = Host([whole(spoil(body), '"v2"'), whole(body)])
    assert (await fetched(tmp_path, host))[0] == ROWS
    with pytest.raises(ExportFailure, match="a damaged zip"):
        (tmp_path / "journal.sqlite").unlink()
        await fetched(tmp_path, Host([whole(spoil(body))]))
