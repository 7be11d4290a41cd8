"""Scattering a part on a worker: download, verify, divide into buckets, write; and counting the ids of a window."""

from __future__ import annotations

import time
from dataclasses import field
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import numpy as np
from xxhash import xxh3_128_hexdigest

from bulkpull.cluster.divide import KEY_BYTES, Divided, checksum_of_keys, divide
from bulkpull.cluster.run import ExpiredError, Failure, directory_of_task, failures, put, worker
from bulkpull.cluster.storage import DamagedError, Storage
from bulkpull.download import Downloaded, Downloader, LinkSettings, Version, link_opener, verify_csv
from bulkpull.errors import MalformedPartError
from bulkpull.record import record
from bulkpull.retry import RetryPolicy
from bulkpull.rows.held_file import HeldFile, Memory
from bulkpull.rows.records import CsvError, File
from bulkpull.source import Columns
from bulkpull.threads import own_threads

_TALLY_BYTES = 32 * 1024 * 1024  # of keys at a time


@record
class ScatterTask:
    """A part to be downloaded and divided.

    `name` begins the names of what is written. `window` are its bounds as instants, `memory` are bytes for records.
    """

    storage: Storage
    name: str
    link: str = field(repr=False)  # a secret: it grants access to the file
    settings: LinkSettings
    retry: RetryPolicy
    columns: Columns
    window: tuple[str, str]
    buckets: int
    memory: int


@record
class Scattered:
    """A part whose records are in the storage.

    `name` is that of the object, `size` the bytes of the CSV and `checksum` theirs, `received` those that came over the
    network, `retries` how often its transfer was retried, `worker` where it was divided, in `seconds`. The coordinator
    adds of which export it is, and the name of the `file` among those of the export.
    """

    name: str
    size: int
    checksum: str
    received: int
    divided: Divided
    retries: int
    worker: str
    seconds: float
    export_id: str = ""
    file: str = ""


@record
class TallyTask:
    """Scattered parts of one window, whose distinct ids are counted: the names, the bytes before the keys of each, how
    many keys each bucket has in each part, and the checksum of the keys of each."""

    storage: Storage
    parts: tuple[tuple[str, int, tuple[int, ...], str], ...]


def scatter(task: ScatterTask) -> Scattered | Failure:
    """Download a part, divide its records into buckets, and write them to the storage as one object."""
    failed: list[Failure] = []
    began = time.monotonic()
    with failures(failed), directory_of_task() as directory:
        name = f"{task.name}-{uuid4().hex}"
        path, downloaded, divided, transfer = anyio.run(_download_and_divide, task, name, directory)
        put(task.storage, (task.storage, name, path))
        return Scattered(
            name,
            downloaded.size,
            downloaded.checksum,
            transfer.received_bytes,
            divided,
            transfer.retries,
            worker(),
            time.monotonic() - began,
        )
    return failed[0]


def tally(task: TallyTask) -> int | Failure:
    """Count the distinct ids of several parts of a window."""
    failed: list[Failure] = []
    with failures(failed):
        counts = np.array([ids for _, _, ids, _ in task.parts], np.int64)
        ends = np.cumsum(counts, axis=1)
        checksums = [checksum_of_keys(name) for name, *_ in task.parts]
        found, bucket, buckets = 0, 0, counts.shape[1]
        while bucket < buckets:  # as many as fit into memory, of all parts
            last = bucket + 1
            while last < buckets and counts[:, bucket : last + 1].sum() * KEY_BYTES <= _TALLY_BYTES:
                last += 1
            runs = []
            for (name, before, *_), checksum, end, count in zip(task.parts, checksums, ends, counts, strict=True):
                first = int(end[bucket] - count[bucket])
                size = (int(end[last - 1]) - first) * KEY_BYTES
                if size:
                    data = task.storage.read(name, before + first * KEY_BYTES, size)
                    checksum.update(data)
                    runs.append(np.frombuffer(data, "<u8"))
            found += len(np.unique(np.concatenate(runs))) if runs else 0
            bucket = last
        for (name, *_, expected), checksum in zip(task.parts, checksums, strict=True):
            if checksum.hexdigest() != expected:
                raise DamagedError(task.storage, name)
        return found
    return failed[0]


async def _download_and_divide(
    task: ScatterTask, name: str, directory: Path
) -> tuple[Path, Downloaded, Divided, _Transfer]:
    found: list[Divided] = []
    path, progress = directory / "rows", _Transfer()
    with own_threads(2):
        async with link_opener(task.settings) as opener:
            downloader = Downloader(
                opener,
                task.retry,
                anyio.CapacityLimiter(1),
                partial(_verify, task=task, name=name, path=path, found=found),
                Memory(0),
            )
            downloaded = await downloader.download(
                _TaskLink(task.link), directory / "part.csv", _NoCheckpoints(), progress
            )
    if isinstance(downloaded, HeldFile):
        downloaded = Downloaded(downloaded.size, xxh3_128_hexdigest(b"".join(downloaded.pieces)))
    return path, downloaded, found[-1], progress


def _verify(source: File, *, task: ScatterTask, name: str, path: Path, found: list[Divided]) -> None:
    """Divide a file that was downloaded: what cannot be divided is downloaded again."""
    verify_csv(source, key=task.columns.key)
    source.seek(0)
    start, end = (bound.encode() for bound in task.window)
    try:
        found.append(
            divide(
                source,
                path,
                name=name,
                columns=task.columns,
                buckets=task.buckets,
                window=(start, end),
                memory=task.memory,
            )
        )
    except CsvError as error:
        raise MalformedPartError(str(error)) from None


@record
class _TaskLink:
    link: str = field(repr=False)

    async def get(self, expired: str | None = None) -> str:
        if expired is not None:
            raise ExpiredError("the file host rejects the link")
        return self.link


class _NoCheckpoints:
    def save_partial(self, version: Version) -> None:
        """A no-op: another run of the task begins anew."""

    def save_complete(self, downloaded: Downloaded) -> None:
        """A no-op: what counts is the object that the task writes."""


@record(frozen=False)
class _Transfer:
    received_bytes: int = 0
    retries: int = 0

    def received(self, size: int) -> None:
        self.received_bytes += size

    def stored(self, size: int) -> None:
        """A no-op: nobody reads what is incomplete."""

    def retried(self, attempt: int, wait: float, reason: str) -> None:
        self.retries += 1
