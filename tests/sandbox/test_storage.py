"""The sandbox's storage servers for files."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bulkpull import UsageError
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.filters import select
from bulkpull.sandbox.given import GivenActivities
from bulkpull.sandbox.storage import open_storage


@pytest.mark.parametrize(
    "store",
    [
        "s3://exports",
        "s3://?endpoint=http://127.0.0.1:1",
        "file:///tmp",
        "file:///tmp?url=http://127.0.0.1:1",
        "https://127.0.0.1/exports",
        "exports",
    ],
)
def test_rejects_a_store_of_another_form(store: str) -> None:
    with pytest.raises(UsageError, match="must look like s3://BUCKET"), open_storage(store, 60):
        pass


def test_an_s3_store_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with (
        pytest.raises(UsageError, match="set AWS_ACCESS_KEY_ID"),
        open_storage("s3://a?endpoint=http://127.0.0.1:1", 60),
    ):
        pass


def test_an_s3_store_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match="sandbox-s3"), open_storage("s3://k:s@a?endpoint=http://127.0.0.1:1", 60):
        pass


def test_rejects_an_endpoint_that_is_not_a_url() -> None:
    with pytest.raises(UsageError, match="'nowhere' is not a URL"), open_storage("s3://k:s@a?endpoint=nowhere", 60):
        pass


def test_the_command_reports_an_unreachable_store() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        store = f"s3://k:s@exports?endpoint=http://127.0.0.1:{unused.getsockname()[1]}"
        command = [sys.executable, "-m", "bulkpull", "sandbox", "--port", "0", "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert done.returncode == 5
    assert "the S3 server failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_repr_omits_keys() -> None:
    assert "hush" not in repr(SandboxConfig(store="s3://key:hush@exports?endpoint=http://127.0.0.1:1"))


def test_a_directory_receives_files_and_links_expire(tmp_path: Path) -> None:
    config = SandboxConfig(store=f"file://{tmp_path}?url=http://127.0.0.1:8081/files/&secret=word", link_seconds=30)
    with open_storage(config.store, config.link_seconds) as storage:
        file = tmp_path / "made" / "a.csv"
        file.parent.mkdir()
        file.write_text("id\n1\n")
        storage.put(file)
        link = urlsplit(storage.link(file))
    assert link.netloc == "127.0.0.1:8081"
    assert (tmp_path / link.path.removeprefix("/files/")).read_text() == "id\n1\n"
    assert parse_qs(link.query).keys() == {"md5", "expires"}


async def test_an_export_fails_if_the_store_rejects_its_files(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    config = SandboxConfig(rows=10, export_seconds=0, store=f"file://{missing}?url=http://127.0.0.1:1&secret=word")
    async with Sandbox(config) as sandbox:
        everything = select(GivenActivities([{}], config.start), "")
        task = sandbox.exports.start(everything, "", ("id",))
        await sandbox.exports.run(task)
    assert task.status == "failed"
    assert "No such file" in str(task.message)
