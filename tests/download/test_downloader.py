"""Downloads over real sockets from hosts that break off, forget, change their files and lie."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from xxhash import xxh3_128

from bulkpull import MalformedPartError, OutputError, PartError, RetryPolicy, patience
from bulkpull.download import Downloaded, FileMissingError, Version, file, transfer
from bulkpull.download.budget import MAX_MALFORMED, MAX_RENEWALS
from bulkpull.download.transfer import MAX_CONFIRMATIONS
from tests.download.hosts import END, ROWS, Answer, Heard, Host, broken, download, rest, whole
from tests.waiting import until


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


async def test_a_whole_file(tmp_path: Path) -> None:
    host = Host([whole()])
    body, heard = await download(tmp_path, host)
    assert body == ROWS
    assert heard.size == len(ROWS)
    assert host.requests == [None]


async def test_a_broken_transfer_is_resumed_where_it_broke(tmp_path: Path) -> None:
    host = Host([broken(100_000), broken(300_000, begin=100_000), rest()])
    body, heard = await download(tmp_path, host)
    assert body == ROWS
    assert host.requests == [None, "bytes=100000-", "bytes=300000-"]
    assert heard.size == len(ROWS)  # no byte twice
    assert len(heard.retries) == 2


async def test_progress_resets_the_attempts(tmp_path: Path) -> None:
    steps = range(70_000, len(ROWS), 70_000)
    host = Host([broken(70_000), *(broken(step + 70_000, begin=step) for step in steps[:-1]), rest()])
    assert len(host.answers) > 4
    assert (await download(tmp_path, host))[0] == ROWS


async def test_a_host_without_ranges_sends_the_file_again(tmp_path: Path) -> None:
    host = Host([broken(100_000), whole()])
    assert (await download(tmp_path, host))[0] == ROWS


async def test_without_a_strong_etag_no_range_is_requested(tmp_path: Path) -> None:
    host = Host([broken(100_000, etag='W/"v1"'), whole()])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, None]


OTHER = ROWS.replace(b"value", b"VALUE")


@pytest.mark.parametrize("etag", ['"v2"', None])
async def test_a_range_of_a_changed_file_is_not_spliced_in(tmp_path: Path, etag: str | None) -> None:
    host = Host([broken(100_000), rest(body=OTHER, etag=etag), whole(OTHER, '"v2"')])
    assert (await download(tmp_path, host))[0] == OTHER
    assert host.requests == [None, "bytes=100000-", None]


async def test_a_file_that_changed_its_length_is_not_spliced_in(tmp_path: Path) -> None:
    host = Host([broken(100_000), rest(total=len(ROWS) + 1), whole()])
    assert (await download(tmp_path, host))[0] == ROWS


async def test_another_range_than_was_asked_for_is_not_spliced_in(tmp_path: Path) -> None:
    host = Host([broken(100_000), broken(len(ROWS), begin=99_999), whole()])
    assert (await download(tmp_path, host))[0] == ROWS


async def test_a_416_confirms_that_everything_arrived_before_the_connection_broke(tmp_path: Path) -> None:
    host = Host([broken(len(ROWS), chunked=True), rest()])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, END]


async def test_a_416_without_a_reason_restarts_the_file(tmp_path: Path) -> None:
    host = Host([broken(len(ROWS), chunked=True), whole(b"", status=416), whole()])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, END, None]


async def test_a_body_truncated_in_a_record_together_with_its_length_is_completed(tmp_path: Path) -> None:
    cut = len(ROWS) // 2
    host = Host([whole(ROWS[:cut]), rest()])
    body, heard = await download(tmp_path, host)
    assert body == ROWS
    assert host.requests == [None, f"bytes={cut}-"]
    assert heard.size == len(ROWS)


async def test_a_body_truncated_together_with_its_length_is_noticed_by_an_earlier_length(tmp_path: Path) -> None:
    cut = ROWS.index(b"\n", 200_000) + 1
    host = Host([broken(100_000), whole(ROWS[:cut]), rest()])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, "bytes=100000-", f"bytes={cut}-"]


async def test_a_length_that_was_announced_too_great_is_corrected(tmp_path: Path) -> None:
    host = Host([broken(100_000, body=ROWS * 2), whole()])
    assert (await download(tmp_path, host))[0] == ROWS
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
async def test_no_answer_to_the_request_for_more_does_harm(tmp_path: Path, answer: Answer) -> None:
    host = Host([whole(WITHOUT_LAST_NEWLINE), answer])
    assert (await download(tmp_path, host))[0] == WITHOUT_LAST_NEWLINE
    # Where the range was refused, the whole is asked for, for its length; where nothing was said, a few times.
    assert host.requests[:2] == [None, f"bytes={len(WITHOUT_LAST_NEWLINE)}-"]
    assert len(host.requests) <= 1 + MAX_CONFIRMATIONS


async def compressed(_request: web.Request, _host: Host) -> web.Response:
    return web.Response(body=gzip.compress(ROWS, 1), headers={"Content-Encoding": "gzip"})


async def another_range(_request: web.Request, _host: Host) -> web.Response:
    headers = {"Content-Range": f"bytes 100000-{len(ROWS) - 1}/{len(ROWS)}", "ETag": '"v1"'}
    return web.Response(status=206, body=ROWS[100_000:], headers=headers)


@pytest.mark.parametrize(
    "says_nothing",
    [compressed, another_range, whole(b""), whole(b"<html>", status=500), whole(b"{}", status=202), whole(status=404)],
)
async def test_an_answer_that_says_nothing_of_the_end_does_not_confirm_it(tmp_path: Path, says_nothing: Answer) -> None:
    """The file is truncated within its last cell, so that nothing else tells."""
    host = Host([whole(ROWS[:200_005]), says_nothing, whole(ROWS)])
    assert (await download(tmp_path, host))[0] == ROWS


async def test_a_longer_file_with_another_etag_replaces_a_doubtful_one(tmp_path: Path) -> None:
    host = Host([whole(ROWS[:200_005]), whole(ROWS, '"v2"')])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.requests == [None, "bytes=200005-"]


async def test_a_line_without_end_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MAX_RECORD_BYTES", 8_000_000)
    sent = 0

    async def endless(request: web.Request, _host: Host) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1_000_000)
            sent += 1_000_000

    with pytest.raises(MalformedPartError, match="the record is longer"):
        await download(tmp_path, Host([endless]))
    assert sent < MAX_MALFORMED * 2 * 8_000_000


async def test_a_host_that_always_breaks_at_the_same_offset_is_given_up(tmp_path: Path) -> None:
    host = Host([broken(100_000, etag=None)])
    with pytest.raises(PartError, match=r"download failed after \d attempts: .*the body ended early"):
        await download(tmp_path, host)
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
    assert (await download(tmp_path, host))[0] == ROWS
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

    assert (await download(tmp_path, Host([slow])))[0] == ROWS[:1000]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_expired_link_is_renewed(tmp_path: Path, status: int) -> None:
    async def expired(request: web.Request, host: Host) -> web.Response:
        if request.query["signature"] == "0":
            return web.Response(status=status, text="<Error><Code>AccessDenied</Code></Error>")
        return web.Response(body=ROWS)

    host = Host([expired])
    assert (await download(tmp_path, host))[0] == ROWS
    assert host.renewals == 1


async def test_a_link_that_expires_in_mid_transfer_costs_no_byte_twice(tmp_path: Path) -> None:
    host = Host([broken(200_000), whole(b"", status=403), rest()])
    _, heard = await download(tmp_path, host)
    assert host.renewals == 1
    assert heard.size == len(ROWS)


async def test_links_that_are_never_good_are_given_up(tmp_path: Path) -> None:
    host = Host([whole(b"", status=403)])
    with pytest.raises(FileMissingError, match=r"^the file host answered 403 to 5 fresh links$"):
        await download(tmp_path, host)
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
    with pytest.raises(PartError):
        await download(tmp_path, host)
    assert host.renewals <= 2 * MAX_RENEWALS


@pytest.mark.parametrize(
    "page",
    [b"<html>Sign in</html>", b'<?xml version="1.0"?><Error/>', b'{"error": {"message": "no"}}', b"name,v\n1,2\n"],
)
async def test_a_file_that_is_not_a_csv_is_downloaded_again_and_then_malformed(tmp_path: Path, page: bytes) -> None:
    host = Host([whole(page)])
    with pytest.raises(MalformedPartError, match="the file host does not send a valid CSV: row 1: "):
        await download(tmp_path, host)
    assert host.renewals == MAX_MALFORMED - 1


async def test_a_temporary_error_page_does_no_harm(tmp_path: Path) -> None:
    host = Host([whole(b"<html>Busy</html>" * 100_000), whole()])
    assert (await download(tmp_path, host))[0] == ROWS


async def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "part.csv").mkdir()  # nothing can be written there
    with pytest.raises(OutputError, match=r"cannot write .*/part\.csv"):
        await download(tmp_path, Host([whole()]))


async def test_a_file_that_is_recorded_as_complete_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS)
    known = Downloaded(len(ROWS), xxh3_128(ROWS).hexdigest())
    host = Host([whole()])
    body, heard = await download(tmp_path, host, known=known)
    assert body == ROWS
    assert heard == Heard()
    assert not host.requests
    assert not host.renewals


@pytest.mark.parametrize("left", [ROWS[:-1], ROWS.replace(b"1", b"2", 1), None])
async def test_a_file_that_is_not_as_recorded_is_downloaded_again(tmp_path: Path, left: bytes | None) -> None:
    if left is not None:
        (tmp_path / "part.csv").write_bytes(left)
    known = Downloaded(len(ROWS), xxh3_128(ROWS).hexdigest())
    host = Host([whole()])
    assert (await download(tmp_path, host, known=known))[0] == ROWS
    assert host.requests == [None]


@pytest.mark.parametrize("left", [1, 300_000, len(ROWS)])
async def test_a_partial_file_is_resumed_from_its_last_byte(tmp_path: Path, left: int) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS[:left])
    host = Host([rest()])
    known = Version('"v1"', len(ROWS))
    body, heard = await download(tmp_path, host, known=known)
    assert body == ROWS
    assert host.requests == ([] if left == len(ROWS) else [f"bytes={left}-"])
    assert heard.size == len(ROWS) - left


async def test_a_partial_file_of_another_version_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS[:300_000])
    known = Version('"v1"', len(ROWS))
    assert (await download(tmp_path, Host([whole(OTHER, '"v2"')]), known=known))[0] == OTHER


async def test_a_partial_file_longer_than_the_whole_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_bytes(ROWS + b"more")
    known = Version('"v1"', len(ROWS))
    assert (await download(tmp_path, Host([whole()]), known=known))[0] == ROWS


# What is recorded


async def test_the_version_is_recorded_before_the_bytes_that_belong_to_it(tmp_path: Path) -> None:
    """A crash at any time must leave no bytes that are taken for those of another version."""
    seen: list[tuple[int, Version]] = []

    class Watching(Heard):
        def save_partial(self, version: Version) -> None:
            super().save_partial(version)
            part = tmp_path / "part.csv"
            seen.append((part.stat().st_size if part.exists() else 0, version))

    (tmp_path / "part.csv").write_bytes(b"bytes of an unknown version")
    large = ROWS * 4
    _, heard = await download(tmp_path, Host([broken(2_500_000, body=large), whole(OTHER, '"v2"')]), heard=Watching())
    assert seen == [(0, Version('"v1"', len(large))), (0, Version('"v2"', len(OTHER)))]
    assert heard.complete == [Downloaded(len(OTHER), xxh3_128(OTHER).hexdigest())]


async def test_a_file_that_breaks_off_in_its_first_megabyte_is_recorded(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(PartError):
        await download(
            tmp_path,
            Host([broken(100_000), whole(b"", status=500)]),
            heard=heard,
            retry=RetryPolicy(attempts=3, base=0, cap=0),
        )
    assert heard.partial == [Version('"v1"', len(ROWS))]
    assert not heard.complete
    assert (tmp_path / "part.csv").read_bytes() == ROWS[:100_000]


async def test_slow_bytes_are_written_and_recorded_before_they_are_a_megabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "WRITE_SECONDS", 0.05)

    async def slow(request: web.Request, _host: Host) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"v1"'})
        response.content_length = len(ROWS)
        await response.prepare(request)
        for at in range(0, 30_000, 1000):
            await response.write(ROWS[at : at + 1000])
            await anyio.sleep(0.02)
        await anyio.sleep(30)
        return response

    part, heard = tmp_path / "part.csv", Heard()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(download, tmp_path, Host([slow]), heard=heard))
        await until(lambda: part.exists() and part.stat().st_size >= 3000 and heard.partial)
        group.cancel_scope.cancel()
    assert heard.partial == [Version('"v1"', len(ROWS))]


async def test_a_file_that_arrives_in_one_write_is_recorded_once(tmp_path: Path) -> None:
    body, heard = await download(tmp_path, Host([whole()]))
    assert body == ROWS
    assert not heard.partial
    assert len(heard.complete) == 1


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
async def test_a_host_that_is_too_slow_forever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(transfer, "SLOW_SECONDS", 0.3)

    async def dripping(request: web.Request, _host: Host) -> web.StreamResponse:
        if kind == "bytes":
            return await drip(request, ROWS[:1000])
        return await drip(request, b"\x1f\x8b\x08\x08" + b"\0" * 6)  # its name of a file never ends

    with anyio.fail_after(10), pytest.raises(PartError, match="too slow"):
        await download(tmp_path, Host([dripping]), retry=RetryPolicy(seconds=0.4, base=0.01))


@pytest.mark.parametrize("status", [202, 204, 404, 409, 425])
async def test_a_file_that_is_not_ready_is_waited_for(tmp_path: Path, status: int) -> None:
    host = Host([*[whole(b'{"status": "preparing"}', None, status)] * 3, whole()])
    assert (await download(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 4
    assert host.renewals == (status == 404)


@pytest.mark.parametrize("status", [204, 404, 409, 425])
async def test_a_file_that_never_appears_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(patience, "LAG", 1.0)  # so that a slow machine too asks often enough in that time
    host = Host([whole(b"", None, status)])
    with anyio.fail_after(20), pytest.raises(FileMissingError, match=rf"{status}.*, after \d+ s$"):
        await download(tmp_path, host)
    assert 4 < len(host.requests) < 20


async def test_a_file_that_is_being_prepared_forever_is_given_up(tmp_path: Path) -> None:
    host = Host([whole(b'{"status": "preparing"}', None, 202)])
    with (
        anyio.fail_after(10),
        pytest.raises(PartError, match=r"have the file yet \(202\), after \d+ s \(--retry-for\)"),
    ):
        await download(tmp_path, host, retry=RetryPolicy(seconds=2.0, base=0, cap=0.1))
    assert 6 < len(host.requests) < 30


@pytest.mark.parametrize("before", [[], [broken(200_000)]])
async def test_a_wait_beyond_the_limit_is_an_error_at_once(tmp_path: Path, before: list[Answer]) -> None:
    async def busy(_request: web.Request, _host: Host) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "86400"})

    with (
        anyio.fail_after(5),
        pytest.raises(PartError, match=r"127\.0\.0\.1 answered 503; the server asks to wait 86,400 s"),
    ):
        await download(tmp_path, Host([*before, busy]))
