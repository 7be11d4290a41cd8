"""File hosts as they are: whatever they do with ranges, labels, compression, links and waits, every row comes, with no
more exports than that takes, or the pull ends soon with a sentence."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import bulkpull
from bulkpull import BulkpullError, Clickwrap, PartError, Result, RetryPolicy, patience
from bulkpull.sandbox import Sandbox, SandboxConfig, Seen

CONFIG = SandboxConfig(
    rows=600,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 4, 1, tzinfo=UTC),
    export_seconds=0.02,
    file_latency=0.0,
    rows_per_file=100,
)
RETRY = RetryPolicy(base=0.01, cap=0.1, seconds=5.0)


@dataclass
class Came:
    """What a pull of three windows came to, and what the sandbox saw of it."""

    rows: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    result: Result | None = None
    error: BulkpullError | None = None
    seen: Seen = field(default_factory=Seen)


async def pulled(out: Path, faults: str = "", retry: RetryPolicy = RETRY) -> Came:
    came = Came()
    options: dict[str, Any] = {"start": "2024-01-01", "end": "2024-04-01", "window": "1mo", "out": out, "exports": 3}
    async with Sandbox(replace(CONFIG, faults=faults)) as sandbox:
        try:
            async with Clickwrap(CONFIG.token, base_url=sandbox.url, retry=retry) as clickwrap:
                with anyio.fail_after(60):
                    came.result = await bulkpull.pull(clickwrap, **options)
        except BulkpullError as error:
            came.error = error
        came.seen = sandbox.seen
    if came.result:
        came.data = out.read_bytes()
        with out.open(encoding="utf-8", newline="") as file:
            came.rows = list(csv.DictReader(file, strict=True))
    return came


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 1.0)


async def assert_comes(directory: Path, faults: str) -> Came:
    """That every row comes as delivered, with one export a window."""
    came = await pulled(directory / "a.csv", faults)
    assert came.error is None
    assert len(came.rows) == len({row["id"] for row in came.rows}) == CONFIG.rows
    assert came.data == (await pulled(directory / "b.csv")).data
    assert came.seen.exports == 3
    assert came.seen.leaks == 0
    for kind in faults.split("+"):
        assert came.seen.faults[kind.partition(":")[0]]  # it made a difference
    return came


async def refusal(directory: Path, faults: str, retry: RetryPolicy = RETRY) -> str:
    """The sentence that a pull ends with."""
    came = await pulled(directory / "a.csv", faults, retry)
    assert isinstance(came.error, PartError)
    assert ", part " in str(came.error)
    assert str(came.error).startswith("window ")
    assert "signature" not in str(came.error)
    assert not (directory / "a.csv").exists()
    return str(came.error)


async def test_each_file_is_asked_for_once(tmp_path: Path) -> None:
    came = await pulled(tmp_path / "a.csv")
    assert came.result is not None
    assert came.seen.downloads == came.result.parts


RANGES = ("403", "405", "500", "503-day", "empty", "416", "416-wrong", "unsaid", "broken", "wrong")


@pytest.mark.parametrize("kind", [f"range-{kind}" for kind in RANGES])
async def test_what_is_odd_about_ranges_costs_one_plain_download(tmp_path: Path, kind: str) -> None:
    came = await assert_comes(tmp_path, f"cut-first+{kind}")
    assert came.result is not None
    assert came.seen.downloads <= 6 * came.result.parts
    assert came.seen.bytes_sent < 3 * len(came.data)


@pytest.mark.parametrize("kind", ["etag-changes", "etag-weak", "etag-none", "chunked"])
@pytest.mark.parametrize("breaks", ["cut-first:1", "cut-first:2"])
async def test_what_is_odd_about_validators(tmp_path: Path, kind: str, breaks: str) -> None:
    came = await assert_comes(tmp_path, f"{breaks}+{kind}")
    assert came.result is not None
    assert came.seen.downloads <= 4 * came.result.parts


async def test_a_host_with_an_etag_of_its_own_for_each_request_that_always_breaks_is_given_up_in_time(
    tmp_path: Path,
) -> None:
    retry = RetryPolicy(base=0.05, cap=0.2, seconds=1.0)
    with anyio.fail_after(15):
        assert "download failed after" in await refusal(tmp_path, "cut-all+etag-changes", retry)


@pytest.mark.parametrize("kind", ["utf-8", "binary", "none", "aws-chunked", "gzip"])
async def test_labels_that_are_none(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, f"label-{kind}")


@pytest.mark.parametrize(
    "kind", ["gzip", "gzip-unlabelled", "gzip-members", "deflate", "deflate-raw", "zstd", "zstd-unlabelled", "zip"]
)
async def test_bodies_that_are_compressed(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, f"body-{kind}")


async def test_an_encoding_that_nobody_asked_for_is_named(tmp_path: Path) -> None:
    assert "'br'" in await refusal(tmp_path, "body-br")


@pytest.mark.parametrize("kind", ["until-close", "chunked"])
async def test_bodies_without_a_length(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)


@pytest.mark.parametrize("kind", ["preparing:1", "preparing:3", "preparing-200:1", "not-found-first:2"])
async def test_files_that_are_not_there_yet(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)


async def test_a_file_that_never_gets_ready(tmp_path: Path) -> None:
    retry = RetryPolicy(base=0.05, cap=0.2, seconds=2.0)
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "never-ready", retry)
    assert "does not have the file yet (202)" in message


async def test_a_host_that_asks_to_wait_for_a_day(tmp_path: Path) -> None:
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "file-retry-after-day")
    assert "127.0.0.1 answered 503; the server asks to wait 86,400 s" in message
    assert "--retry-for" in message


@pytest.mark.parametrize("size", [12_000, 65_000])
async def test_long_headers(tmp_path: Path, size: int) -> None:
    await assert_comes(tmp_path, f"file-headers-long:{size}")


async def test_headers_that_are_too_long_are_not_asked_for_again(tmp_path: Path) -> None:
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "file-headers-long:70000", RetryPolicy(seconds=900.0))
    assert "a header of more than 65,536 bytes" in message


@pytest.mark.parametrize("kind", ["link-odd-characters", "redirect-odd-characters"])
async def test_urls_with_what_may_not_stand_in_one(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)
