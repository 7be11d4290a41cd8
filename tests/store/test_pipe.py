"""A pull into a pipe, from this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest

from bulkpull import OutputError, ReaderGoneError, UsageError
from bulkpull.rows.format import Format
from bulkpull.rows.growing_file import GrowingFile
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.source import Columns
from bulkpull.store import ByteStream, Pipe, byte_stream_at, pipe
from bulkpull.threads import in_thread
from tests.flows.test_resume import CONFIG, WINDOWS, pull
from tests.late_column import add_a_late_column

TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files, which are gone afterwards."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


class Reader:
    """Reads a descriptor to its end, in a thread."""

    def __init__(self, descriptor: int) -> None:
        self._read = bytearray()
        self._thread = Thread(target=self._run, args=(descriptor,))
        self._thread.start()

    def _run(self, descriptor: int) -> None:
        while data := os.read(descriptor, 1 << 16):
            self._read += data
        os.close(descriptor)

    def all(self) -> bytes:
        """Wait for the end; return what was read."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return bytes(self._read)


@pytest.mark.parametrize("kind", ["pipe", "socket", "non-blocking pipe"])
async def test_a_descriptor_gets_the_bytes_of_a_file(tmp_path: Path, kind: str) -> None:
    if kind == "socket":
        read, write = (end.detach() for end in socket.socketpair())
    else:
        read, write = os.pipe()
    os.set_blocking(write, kind != "non-blocking pipe")
    reader = Reader(read)
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, tmp_path / "a.csv")
        result = await pull(sandbox, Path(f"/dev/fd/{write}"))
    assert os.get_blocking(write) is (kind != "non-blocking pipe")
    os.close(write)
    assert reader.all() == (tmp_path / "a.csv").read_bytes()
    assert (result.rows, result.output) == (8000, f"/dev/fd/{write}")


async def test_a_column_that_comes_late_ends_the_pull_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_a_late_column(monkeypatch)
    read, write = os.pipe()
    reader = Reader(read)
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=r"the column late, but the header is written.*with --fields"):
            await pull(sandbox, Path(f"/dev/fd/{write}"), fields=None, exports=2)
        assert sandbox.stats.exports < WINDOWS
    os.close(write)
    assert b"late" not in reader.all()


async def test_a_reader_that_is_gone_ends_a_pull_that_waits_for_exports() -> None:
    read, write = os.pipe()
    os.close(read)
    async with Sandbox(SandboxConfig(rows=100, export_seconds=600)) as sandbox:
        with anyio.fail_after(TIMEOUT_S), pytest.raises(ReaderGoneError, match=r"the reader of /dev/fd/.* has exited"):
            await pull(sandbox, Path(f"/dev/fd/{write}"))
    os.close(write)


async def test_the_wait_for_a_reader_of_a_fifo_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "OPEN_TIMEOUT_S", 0.2)
    os.mkfifo(tmp_path / "fifo")
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=r"no program has opened .*fifo for reading within 0 seconds"):
            await pull(sandbox, tmp_path / "fifo")
        assert sandbox.stats.exports == 0


def test_what_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "file").touch()
    streams = [byte_stream_at(path) for path in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")]
    assert [stream and stream.name for stream in streams] == ["standard output"] * 4
    assert all(byte_stream_at(path) for path in ("/dev/null", "/dev/stderr", tmp_path / "fifo", tmp_path / "link"))
    others = ("./-", tmp_path / "file", tmp_path, tmp_path / "none", "a\0b", "/dev/fd/x", "/dev")
    assert [byte_stream_at(path) for path in others] == [None] * len(others)


@pytest.mark.parametrize("options", [{"format": "parquet"}, {"format": "csv", "partition_by": "month"}])
async def test_formats_that_need_a_file_are_refused_without_a_request(options: dict[str, Any]) -> None:
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(UsageError):
            await pull(sandbox, Path("-"), **options)
        assert not sandbox.stats.requests


async def test_a_column_that_the_first_header_lacks_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "merged").write_bytes(b"id\n1\n2,b\n")
    read, write = os.pipe()
    merged = GrowingFile(tmp_path / "merged")
    with closing(Pipe(ByteStream("a pipe", descriptor=write), Format(), Columns("id", "id", ("id",)))) as destination:
        await in_thread(destination.check)
        merged.advance(9, ("id", "v"))
        with pytest.raises(OutputError, match="the column v, but the header is written to a pipe already"):
            await in_thread(destination.take, merged)
    os.close(write)
    assert Reader(read).all() == b""
