"""The sandbox's option to serve its files from another server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bulkpull import UsageError
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.sandbox.storage import connected


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
def test_a_store_of_another_form_is_a_usage_error(store: str) -> None:
    with pytest.raises(UsageError, match="does not look like s3://BUCKET"), connected(store, 60):
        pass


def test_an_s3_store_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(UsageError, match="set AWS_ACCESS_KEY_ID"), connected("s3://a?endpoint=http://127.0.0.1:1", 60):
        pass


def test_an_s3_store_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match="sandbox-s3"), connected("s3://k:s@a?endpoint=http://127.0.0.1:1", 60):
        pass


def test_an_endpoint_that_is_no_url_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'nowhere' is no URL"), connected("s3://k:s@a?endpoint=nowhere", 60):
        pass


def test_the_command_says_that_a_store_cannot_be_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        store = f"s3://k:s@exports?endpoint=http://127.0.0.1:{unused.getsockname()[1]}"
        command = [sys.executable, "-m", "bulkpull", "sandbox", "--port", "0", "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert done.returncode == 5
    assert "the S3 server failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_are_not_shown() -> None:
    assert "hush" not in repr(SandboxConfig(store="s3://key:hush@exports?endpoint=http://127.0.0.1:1"))


def test_a_directory_gets_the_files_and_links_that_expire(tmp_path: Path) -> None:
    config = SandboxConfig(store=f"file://{tmp_path}?url=http://127.0.0.1:8081/files/&secret=word", link_seconds=30)
    with connected(config.store, config.link_seconds) as storage:
        file = tmp_path / "made" / "a.csv"
        file.parent.mkdir()
        file.write_text("id\n1\n")
        storage.put(file)
        link = urlsplit(storage.link(file))
    assert link.netloc == "127.0.0.1:8081"
    assert (tmp_path / link.path.removeprefix("/files/")).read_text() == "id\n1\n"
    assert parse_qs(link.query).keys() == {"md5", "expires"}


async def test_the_exports_of_a_server_that_refuses_files_fail(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    config = SandboxConfig(rows=10, export_seconds=0, store=f"file://{missing}?url=http://127.0.0.1:1&secret=word")
    async with Sandbox(config) as sandbox:
        task = sandbox.exports.start("", ("id",))
        await sandbox.exports.work(task)
    assert task.status == "failed"
    assert "No such file" in str(task.message)
