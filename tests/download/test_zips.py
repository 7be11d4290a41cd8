"""Compressed and zipped files."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_128

from bulkpull import MalformedPartError, PartError, patience
from bulkpull.download import Downloaded, Version
from bulkpull.download.budget import MAX_MALFORMED
from tests.download.hosts import ROWS, Host, beside, broken, download, rest, whole


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LAG", 0.2)


async def test_a_corrupt_gzip_is_downloaded_again(tmp_path: Path) -> None:
    body = gzip.compress(ROWS)
    host = Host([whole(body[:-100]), whole(body)])
    assert (await download(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 2


async def test_a_gzip_that_is_always_corrupt_is_malformed(tmp_path: Path) -> None:
    host = Host([whole(gzip.compress(ROWS)[:-100])])
    with pytest.raises(MalformedPartError, match="the compressed body ended early"):
        await download(tmp_path, host)
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
    got, heard = await download(tmp_path, Host([whole(body)]))
    assert got == ROWS
    assert not beside(tmp_path)
    assert heard.partial[-1] == Version()  # what was recorded before was the archive's
    assert heard.complete == [Downloaded(len(ROWS), xxh3_128(ROWS).hexdigest())]


async def test_a_zip_that_breaks_off_is_resumed(tmp_path: Path) -> None:
    body = zipped(("activity.csv", ROWS))
    host = Host([broken(300_000, body=body), rest(body=body)])
    got, heard = await download(tmp_path, host)
    assert got == ROWS
    assert heard.size == len(body)


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
        (zipped(("a.csv", b" " * 40_000_000), compression=zipfile.ZIP_DEFLATED), "a zip of .* expands to more than"),
        (zipped(("a.zip", zipped(("a.csv", ROWS)))), "a zip within a zip"),
    ],
    ids=["two", "empty", "folder", "encrypted", "method", "bomb", "zip"],
)
async def test_other_zips_are_refused_at_once_as_what_they_are(tmp_path: Path, body: bytes, reason: str) -> None:
    host = Host([whole(body)])
    with pytest.raises(PartError, match=f"the file host .*{reason}"):
        await download(tmp_path, host)
    assert len(host.requests) == 1
    assert not list(tmp_path.glob("*.unzipped"))


@pytest.mark.parametrize("spoil", [lambda body: body[:-5000], lambda body: body[:200] + b"?" * 500 + body[700:]])
async def test_a_corrupt_zip_is_downloaded_again(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    body = zipped(("activity.csv", ROWS), compression=zipfile.ZIP_DEFLATED)
    host = Host([whole(spoil(body), '"v2"'), whole(body)])
    assert (await download(tmp_path, host))[0] == ROWS
    with pytest.raises(MalformedPartError, match="corrupt zip"):
        await download(tmp_path, Host([whole(spoil(body))]))


async def test_a_zip_with_something_else_is_downloaded_again(tmp_path: Path) -> None:
    body = zipped(("activity.csv", ROWS))
    host = Host([whole(zipped(("error.html", b"<html>Busy</html>"))), whole(body)])
    assert (await download(tmp_path, host))[0] == ROWS
    assert len(host.requests) == 2
