"""Pulls to object storage: two S3 servers that others wrote, and faults in front of them."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import boto3
import orjson
import pyarrow as pa
import pytest
from aiohttp import web
from anyio import to_thread
from botocore.exceptions import BotoCoreError, ClientError
from yarl import URL

import bulkpull
from bulkpull import OutputError, Result, events
from bulkpull.events import Event
from bulkpull.sandbox import Sandbox, SandboxConfig
from bulkpull.store import ObjectUrl, WorkDirectory, bucket, upload
from tests.commands import program, run, sandbox_process
from tests.flows.test_resume import CONFIG, WINDOWS
from tests.flows.test_resume import pull as pull_locally
from tests.servers import pulls
from tests.servers.running import KEY, SECRET, FileServer, moto, seaweedfs
from tests.waiting import until

BUCKET = "exports"
PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes
DATA_SET: dict[str, Any] = {"partition_by": "month", "format": "parquet"}


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket, as seen by another client."""

    server: FileServer
    name: str
    client: Any

    def __getitem__(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def __setitem__(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def list(self) -> Sequence[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET)
        return [one["Key"] for one in found.get("Contents", ())]

    def uploads(self) -> Sequence[str]:
        found = self.client.list_multipart_uploads(Bucket=BUCKET)
        return [one["Key"] for one in found.get("Uploads", ())]

    def abort_uploads(self) -> None:
        for one in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
            self.client.abort_multipart_upload(Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"])


BOTH_SERVERS = pytest.mark.parametrize("server", [moto, seaweedfs], ids=["moto", "seaweedfs"], indirect=True)


@pytest.fixture(scope="module", params=[seaweedfs], ids=["seaweedfs"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, FileServer]]:
    with request.param() as running:
        yield request.param.__name__, running


@pytest.fixture
def store(server: tuple[str, FileServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket that pulls reach by their environment, and an empty current directory."""
    environment = {
        "AWS_ENDPOINT_URL": server[1].url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    client = boto3.client("s3", endpoint_url=server[1].url, region_name="us-east-1")
    wait_for_bucket(client)
    found = Store(server[1], server[0], client)
    for key in found.list():
        client.delete_object(Bucket=BUCKET, Key=key)
    found.abort_uploads()  # those of pulls that other tests have killed
    yield found
    client.close()


def wait_for_bucket(client: Any) -> None:
    """SeaweedFS listens before it can store."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="first", Body=b"")
        except (ClientError, BotoCoreError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the output of these tests take several parts."""
    for module in (bucket, upload):
        monkeypatch.setattr(module, "PART_BYTES", PART_BYTES)


async def pull(sandbox: Sandbox, out: str, **options: Any) -> Result:
    return await pull_locally(sandbox, out, **options)  # type: ignore[arg-type]


@BOTH_SERVERS
@pytest.mark.parametrize("name", ["a.csv", "a.csv.zst", "a.csv.gz", "a.ndjson", "a.parquet"])
async def test_has_the_bytes_of_the_local_file(store: Store, tmp_path: Path, name: str) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull_locally(sandbox, tmp_path / name)
        result = await pull(sandbox, f"s3://{BUCKET}/x/{name}")
    assert store[f"x/{name}"] == (tmp_path / name).read_bytes()
    assert (result.output, result.rows) == (f"s3://{BUCKET}/x/{name}", 8000)
    assert store.list() == [f"x/{name}", f"x/{name}.manifest.json"]
    assert not store.uploads()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("name", "options"), [("one.csv", {}), ("set", DATA_SET)])
async def test_its_manifest_is_that_of_the_local_output(
    store: Store, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    async with Sandbox(CONFIG) as sandbox:
        local = await pull_locally(sandbox, tmp_path / name, **options)
        remote = await pull(sandbox, f"s3://{BUCKET}/{name}", **options)
    assert remote.manifest == f"s3://{BUCKET}/{name}.manifest.json"
    assert isinstance(local.manifest, Path)
    expected, found = orjson.loads(local.manifest.read_bytes()), orjson.loads(store[f"{name}.manifest.json"])
    for file in found["files"]:
        assert sha256(store[file["path"]]).hexdigest() == file["sha256"]
        file["path"] = re.sub(r"-\w+\.parquet$", ".parquet", file["path"])  # unique, so that none is overwritten
    for window in (*expected["windows"], *found["windows"]):
        window["exports"] = len(window["exports"])
    of_each = {"created": "", "timeline": ""}
    assert found | of_each == expected | of_each
    page = await to_thread.run_sync(partial(bulkpull.write_report, f"s3://{BUCKET}/{name}", tmp_path / "report.html"))
    assert f"{remote.rows:,}" in page.read_text()
    with pytest.raises(OutputError, match=rf"nor a manifest s3://{BUCKET}/missing\.manifest\.json"):
        await to_thread.run_sync(bulkpull.write_report, f"s3://{BUCKET}/missing")


async def test_a_foreign_object_at_the_manifest_is_not_replaced(store: Store) -> None:
    store["a.csv.manifest.json"] = b"precious"
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match="is not a manifest"):
            await pull(sandbox, f"s3://{BUCKET}/a.csv")
        assert sandbox.stats.exports == 0
        assert store["a.csv.manifest.json"] == b"precious"
        await pull(sandbox, f"s3://{BUCKET}/a.csv", overwrite=True)
    assert orjson.loads(store["a.csv.manifest.json"])["rows"] == 8000


async def test_a_large_output_goes_up_in_parts(store: Store, tmp_path: Path, small_parts: None) -> None:
    config = replace(pulls.CONFIG, rows=100_000)
    expected, _ = await pulls.pulled(made(tmp_path / "local") / "a.csv", config)
    async with Sandbox(config) as sandbox:
        await pull(sandbox, f"s3://{BUCKET}/a.csv", **pulls.OPTIONS)
    assert len(expected) > 2 * PART_BYTES
    assert store["a.csv"] == expected
    assert store.client.head_object(Bucket=BUCKET, Key="a.csv")["ETag"].endswith(f'-{-(-len(expected) // PART_BYTES)}"')
    assert not store.uploads()


@BOTH_SERVERS
async def test_a_data_set_is_its_manifest_and_the_files_it_names(store: Store, tmp_path: Path) -> None:
    async with Sandbox(CONFIG) as sandbox:
        await pull_locally(sandbox, tmp_path / "local", **DATA_SET)
        await pull(sandbox, f"s3://{BUCKET}/x/set", **DATA_SET)
    files = orjson.loads(store["x/set/_manifest.json"])["files"]
    manifests = ["x/set.manifest.json", "x/set/_manifest.json"]
    assert sorted(store.list()) == sorted([*manifests, *(f"x/set/{file['path']}" for file in files)])
    for file, path in zip(files, sorted((tmp_path / "local").rglob("*.parquet")), strict=True):
        assert store[f"x/set/{file['path']}"] == path.read_bytes()
        assert file["bytes"] == path.stat().st_size
        assert file["path"].startswith(f"{path.parent.name}/")
    remote = await to_thread.run_sync(read, f"s3://{BUCKET}/x/set")
    assert remote.num_rows == 8000
    assert remote == read(str(tmp_path / "local"))


def is_uploading(store: Store, out: str) -> bool:
    """Whether the upload of merged rows has begun. The first one of a pull only tests whether it may."""
    with suppress(OutputError):
        return bool(bulkpull.status(out).merged.rows and store.uploads())
    return False


def read(place: str) -> pa.Table:
    return pa.table(pa.RecordBatchReader.from_stream(bulkpull.open_dataset(place)).read_all())


@pytest.mark.parametrize(
    ("existing", "options"), [("a.csv", {}), ("set/_manifest.json", DATA_SET), ("set/other", DATA_SET)]
)
async def test_refuses_an_existing_output_before_any_export(
    store: Store, existing: str, options: dict[str, Any]
) -> None:
    store[existing] = b"precious"
    out = f"s3://{BUCKET}/{existing.partition('/')[0]}"
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=f"{out}.*choose another"):
            await pull(sandbox, out, **options)
        assert sandbox.stats.exports == 0
    assert store[existing] == b"precious"
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("config", [CONFIG, pulls.CONFIG], ids=["one part", "several parts"])
async def test_never_replaces_an_object_that_appeared_meanwhile(
    store: Store, config: SandboxConfig, small_parts: None
) -> None:
    options: dict[str, Any] = {} if config is CONFIG else pulls.OPTIONS

    def appear(event: Event) -> None:
        if isinstance(event, events.WindowMerged):
            store["a.csv"] = b"precious"

    async with Sandbox(config) as sandbox:
        with pytest.raises(OutputError, match="exists; choose another"):
            await pull(sandbox, f"s3://{BUCKET}/a.csv", on_event=appear, **options)
        assert store["a.csv"] == b"precious"
        assert not store.uploads()
        exports = sandbox.stats.exports
        result = await pull(sandbox, f"s3://{BUCKET}/a.csv", overwrite=True, **options)
        assert sandbox.stats.exports == exports
    assert (result.rows, result.runs) == (config.rows, 2)
    assert store["a.csv"].count(b"\n") > config.rows


async def test_replacing_a_data_set_leaves_nothing_of_the_former(store: Store) -> None:
    out = f"s3://{BUCKET}/set"
    async with Sandbox(CONFIG) as sandbox:
        await pull(sandbox, out, **DATA_SET)
        former, before = store.list(), await to_thread.run_sync(read, out)
        await pull(sandbox, out, overwrite=True, **DATA_SET)
    assert set(former) & set(store.list()) == {"set.manifest.json", "set/_manifest.json"}
    assert len(store.list()) == len(former)
    assert await to_thread.run_sync(read, out) == before


async def test_a_cancelled_pull_leaves_nothing_visible_and_resumes(store: Store, small_parts: None) -> None:
    out = f"s3://{BUCKET}/a.csv"
    config = replace(pulls.CONFIG, export_seconds=0.3)
    async with Sandbox(config) as sandbox:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: pull(sandbox, out, exports=1, **pulls.OPTIONS))
                await until(lambda: is_uploading(store, out))
                scope.cancel()
        assert scope.cancelled_caught
        assert not store.uploads()
        assert not store.list()
        assert bulkpull.status(out).merged.rows > 0
        result = await pull(sandbox, out, **pulls.OPTIONS)
        assert (result.runs, result.exports) == (2, sandbox.stats.exports)
        assert result.exports <= pulls.WINDOWS + 1  # one was in flight
    assert store["a.csv"].count(b"\n") > config.rows
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("existing", [None, b"former"])
async def test_a_kill_leaves_the_former_object_and_the_next_run_resumes(
    store: Store, existing: bytes | None, tmp_path: Path
) -> None:
    if existing:
        store["a.csv"] = existing
    expected, _ = await pulls.pulled(made(tmp_path / "local") / "a.csv")
    async with Sandbox(replace(pulls.CONFIG, export_seconds=0.3)) as sandbox:
        command = [
            *(sys.executable, "-c", f"{SMALL_PARTS}; import sys; from bulkpull.cli import main; main()"),
            *("pull", "--start", "2024-01-01", "--end", "2024-07-01", "--window", "1mo", "--overwrite", "--quiet"),
            *("--fields", ",".join(pulls.OPTIONS["fields"]), "--out", f"s3://{BUCKET}/a.csv", "--exports", "1"),
        ]
        environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.config.token}
        process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220, S603
        try:
            await until(lambda: process.poll() is not None or is_uploading(store, f"s3://{BUCKET}/a.csv"), 60)
        finally:
            process.kill()
            process.wait()
        assert store.list() == (["a.csv"] if existing else [])
        assert not existing or store["a.csv"] == existing
        done = bulkpull.status(f"s3://{BUCKET}/a.csv").merged.rows
        assert done > 0
        result = await pull(sandbox, f"s3://{BUCKET}/a.csv", overwrite=True, **pulls.OPTIONS)
        assert result.exports <= pulls.WINDOWS + 1  # one was in flight
    assert result.runs == 2
    assert store["a.csv"] == expected


SMALL_PARTS = f"from bulkpull.store import bucket, upload; bucket.PART_BYTES = upload.PART_BYTES = {PART_BYTES}"


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("options", [{}, DATA_SET], ids=["file", "data set"])
async def test_recognises_what_a_run_published_that_was_killed_just_afterwards(
    store: Store, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(work: WorkDirectory, *, remove: bool) -> None:
        assert remove
        assert work._lock is not None
        os.close(work._lock)

    out = f"s3://{BUCKET}/{'set' if options else 'a.csv'}"
    async with Sandbox(CONFIG) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(WorkDirectory, "release", die)
            await pull(sandbox, out, **options)
        found = store.list()
        result = await pull(sandbox, out, **options)
        assert (result.rows, result.exports, result.runs, result.requests) == (8000, WINDOWS, 2, 0)
    assert store.list() == found
    assert not list(Path.cwd().iterdir())


async def test_starting_over_removes_what_was_uploaded_of_a_data_set(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"s3://{BUCKET}/set"

    async with Sandbox(CONFIG) as sandbox:
        with monkeypatch.context() as patch, pytest.raises(OutputError, match="no"):
            patch.setattr(bucket.Bucket, "put", fail_for_manifest(bucket.Bucket.put))
            await pull(sandbox, out, **DATA_SET)
        left = store.list()
        assert len(left) == 6
        await pull(sandbox, out, resume=False, **DATA_SET)
    assert not set(left) & set(store.list())
    assert len(store.list()) == 8


def fail_for_manifest(put: Any) -> Any:
    def fails(self: bucket.Bucket, key: str, *arguments: Any, **options: Any) -> None:
        if key.endswith("_manifest.json"):
            raise OutputError("no")
        put(self, key, *arguments, **options)

    return fails


async def test_a_bucket_that_does_not_exist_is_told_before_any_export(store: Store) -> None:
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=r"s3://nowhere/.*: the bucket does not exist\. Create it"):
            await pull(sandbox, "s3://nowhere/a.csv")
        assert sandbox.stats.exports == 0


async def test_wrong_credentials_are_told_before_any_export_and_not_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with moto, which accepts all credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAHUSH")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "HUSH")
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match=r"permission denied .*403.*Check the credentials") as refused:
            await pull(sandbox, f"s3://{BUCKET}/a.csv")
        assert sandbox.stats.exports == 0
    shown = "".join(traceback.format_exception(refused.value))
    assert "HUSH" not in shown
    assert "HUSH" not in repr(bucket.Bucket(ObjectUrl(f"s3://{BUCKET}", "a.csv")))


async def test_a_storage_that_cannot_be_reached_is_told_before_any_export(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    async with Sandbox(CONFIG) as sandbox:
        with pytest.raises(OutputError, match="cannot be reached"):
            await pull(sandbox, f"s3://{BUCKET}/a.csv")
        assert sandbox.stats.exports == 0


async def test_rides_out_a_storage_that_fails_for_a_while(
    store: Store, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with faulty(store.server.port) as faults, Sandbox(pulls.CONFIG) as sandbox:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
        faults.failing = Counter(PUT=4, POST=3, GET=2)
        result = await pull(sandbox, f"s3://{BUCKET}/a.csv", **pulls.OPTIONS)
        assert not +faults.failing
    assert result.exports == pulls.WINDOWS
    assert store["a.csv"].count(b"\n") > pulls.CONFIG.rows
    assert not store.uploads()


@BOTH_SERVERS
async def test_uploads_anew_in_the_next_run_if_the_storage_has_discarded_the_upload(
    store: Store, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a lifecycle rule does with one that takes days."""
    complete = upload.Upload.complete

    def forgotten(self: upload.Upload, **options: Any) -> None:
        assert store.uploads()
        store.abort_uploads()
        complete(self, **options)

    out = f"s3://{BUCKET}/a.csv"
    async with Sandbox(pulls.CONFIG) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(upload.Upload, "complete", forgotten)
            with pytest.raises(OutputError, match=r"discarded the unfinished upload.*Run the same command again"):
                await pull(sandbox, out, **pulls.OPTIONS)
        assert not store.list()
        result = await pull(sandbox, out, **pulls.OPTIONS)
    assert result.exports == pulls.WINDOWS
    assert store["a.csv"].count(b"\n") > pulls.CONFIG.rows


@dataclass(slots=True)
class Faults:
    """A proxy that answers so many requests of each method with 503."""

    url: str = ""
    failing: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def faulty(upstream: int) -> AsyncIterator[Faults]:
    """Run a proxy in front of the server at port `upstream`."""
    faults = Faults()
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            data = await request.read()
            if faults.failing[request.method] > 0:
                faults.failing[request.method] -= 1
                return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")
            url = URL(f"http://127.0.0.1:{upstream}{request.raw_path}", encoded=True)
            headers = {name: value for name, value in request.headers.items() if name != "Transfer-Encoding"}
            async with session.request(request.method, url, headers=headers, data=io.BytesIO(data)) as answer:
                body = await answer.read()
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name not in ("Content-Length", "Transfer-Encoding", "Connection")
                }
                return web.Response(status=answer.status, headers=kept, body=body)

        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            faults.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield faults
        finally:
            await runner.cleanup()


def test_the_command_line_resumes_and_shows_the_status(store: Store) -> None:
    out = f"s3://{BUCKET}/x/a.csv"
    options = ("--rows", "4000", "--start", "2024-01-01", "--end", "2024-07-01", "--export-seconds", "0.3")
    with sandbox_process(*options) as sandbox:
        environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
        Path("state").mkdir()
        command: tuple[str, ...] = (
            "pull",
            "--start",
            "2024-01-01",
            "--end",
            "2024-07-01",
            "--window",
            "1mo",
            "--exports",
            "1",
        )
        command += ("--out", out, "--state", "state", "--json")
        process = subprocess.Popen(  # noqa: S603
            [*program(), *command], env=environment, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OutputError):
                if bulkpull.status(out, "state").merged.rows:
                    break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert (
            f"Progress is saved in {Path.cwd()}/state/a.csv.bulkpull. Resume with: bulkpull {' '.join(command)}"
            in stderr
        )
        shown = run("status", out, "--state", "state", "--json", environment=environment)
        assert orjson.loads(shown.stdout)["output"] == out
        assert f"{out}: " in run("status", out, "--state", "state", environment=environment).stdout
        done = run(*command, environment=environment)
    assert (done.returncode, orjson.loads(done.stdout)["output"]) == (0, out)
    assert f"4,000 rows in {out}, in" in done.stderr
    assert store["x/a.csv"].count(b"\n") >= 4001
