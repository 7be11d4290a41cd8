"""File hosts with odd ranges, encodings, links or delays: every row is pulled without unnecessary exports, or the pull
fails early with an error."""

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
from bulkpull.sandbox import Sandbox, SandboxConfig, SandboxStats

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
    """The outcome of a pull of three windows, and the sandbox's statistics."""

    rows: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    result: Result | None = None
    error: BulkpullError | None = None
    stats: SandboxStats = field(default_factory=SandboxStats)


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
        came.stats = sandbox.stats
    if came.result:
        came.data = out.read_bytes()
        with out.open(encoding="utf-8", newline="") as file:
            came.rows = list(csv.DictReader(file, strict=True))
    return came


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 1.0)


async def assert_comes(directory: Path, faults: str) -> Came:
    """Assert that every row is pulled as delivered, with one export per window."""
    came = await pulled(directory / "a.csv", faults)
    assert came.error is None
    assert len(came.rows) == len({row["id"] for row in came.rows}) == CONFIG.rows
    assert came.data == (await pulled(directory / "b.csv")).data
    assert came.stats.exports == 3
    assert came.stats.leaks == 0
    for kind in faults.split("+"):
        assert came.stats.faults[kind.partition(":")[0]]  # the mode took effect
    return came


async def refusal(directory: Path, faults: str, retry: RetryPolicy = RETRY) -> str:
    """Assert that the pull failed; return its message."""
    came = await pulled(directory / "a.csv", faults, retry)
    assert isinstance(came.error, PartError)
    assert ", part " in str(came.error)
    assert str(came.error).startswith("window ")
    assert "signature" not in str(came.error)
    assert not (directory / "a.csv").exists()
    return str(came.error)


async def test_requests_each_file_once(tmp_path: Path) -> None:
    came = await pulled(tmp_path / "a.csv")
    assert came.result is not None
    assert came.stats.downloads == came.result.parts


RANGES = ("403", "405", "500", "503-day", "empty", "416", "416-wrong", "unsaid", "broken", "wrong")


@pytest.mark.parametrize("kind", [f"range-{kind}" for kind in RANGES])
async def test_unusable_ranges_cost_one_full_download(tmp_path: Path, kind: str) -> None:
    came = await assert_comes(tmp_path, f"cut-first+{kind}")
    assert came.result is not None
    assert came.stats.downloads <= 6 * came.result.parts
    assert came.stats.bytes_sent < 3 * len(came.data)


@pytest.mark.parametrize("kind", ["etag-changes", "etag-weak", "etag-none", "chunked"])
@pytest.mark.parametrize("breaks", ["cut-first:1", "cut-first:2"])
async def test_handles_weak_changing_and_missing_etags(tmp_path: Path, kind: str, breaks: str) -> None:
    came = await assert_comes(tmp_path, f"{breaks}+{kind}")
    assert came.result is not None
    assert came.stats.downloads <= 4 * came.result.parts


async def test_gives_up_on_a_host_that_always_breaks_and_changes_etags(
    tmp_path: Path,
) -> None:
    retry = RetryPolicy(base=0.05, cap=0.2, seconds=1.0)
    with anyio.fail_after(15):
        assert "download failed after" in await refusal(tmp_path, "cut-all+etag-changes", retry)


@pytest.mark.parametrize("kind", ["utf-8", "binary", "none", "aws-chunked", "gzip"])
async def test_ignores_wrong_content_encodings(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, f"label-{kind}")


@pytest.mark.parametrize(
    "kind", ["gzip", "gzip-unlabelled", "gzip-members", "deflate", "deflate-raw", "zstd", "zstd-unlabelled", "zip"]
)
async def test_decompresses_bodies(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, f"body-{kind}")


async def test_names_an_unsupported_encoding(tmp_path: Path) -> None:
    assert "'br'" in await refusal(tmp_path, "body-br")


@pytest.mark.parametrize("kind", ["until-close", "chunked"])
async def test_accepts_bodies_without_a_length(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)


@pytest.mark.parametrize("kind", ["preparing:1", "preparing:3", "preparing-200:1", "not-found-first:2"])
async def test_waits_for_files_that_are_not_ready(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)


async def test_gives_up_on_a_file_that_is_never_ready(tmp_path: Path) -> None:
    retry = RetryPolicy(base=0.05, cap=0.2, seconds=2.0)
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "never-ready", retry)
    assert "does not have the file yet (202)" in message


async def test_gives_up_on_a_host_that_asks_to_wait_for_a_day(tmp_path: Path) -> None:
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "file-retry-after-day")
    assert "127.0.0.1 answered 503; the server asks to wait 86,400 s" in message
    assert "--retry-for" in message


@pytest.mark.parametrize("size", [12_000, 65_000])
async def test_accepts_long_headers_of_files(tmp_path: Path, size: int) -> None:
    await assert_comes(tmp_path, f"file-headers-long:{size}")


async def test_does_not_retry_headers_that_are_too_long(tmp_path: Path) -> None:
    with anyio.fail_after(15):
        message = await refusal(tmp_path, "file-headers-long:70000", RetryPolicy(seconds=900.0))
    assert "a header of more than 65,536 bytes" in message


@pytest.mark.parametrize("kind", ["link-odd-characters", "redirect-odd-characters"])
async def test_encodes_invalid_characters_in_urls(tmp_path: Path, kind: str) -> None:
    await assert_comes(tmp_path, kind)
