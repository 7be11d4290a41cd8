"""What the tasks share: failures, their temporary directory, and how they write.

A task is a function of its argument alone, which writes to shared storage only. It may run twice, anywhere, be killed
at any point, or end long after the pull has given it up. So each run of it writes under a name that no other run has,
and the coordinator, who learns the name from the result, decides which one counts. A run that ends after the pull has
ended removes what it has written.

Errors of hosts, disks and storage are returned as a Failure, not raised: Dask logs exceptions together with the
arguments.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from bulkpull import __version__
from bulkpull.cluster.storage import DamagedError, Storage
from bulkpull.download import FileMissingError
from bulkpull.errors import BulkpullError, FormatError, MalformedPartError, PartError
from bulkpull.record import record
from bulkpull.store import OPEN

Kind = Literal["expired", "missing", "malformed", "part", "format", "damaged", "storage", "closed", "versions"]


@record
class Failure:
    """Why a task brought no result, and on which worker.

    `name` is that of an object that is damaged, `row` and `id` are those of a row that the format cannot hold.
    """

    kind: Kind
    message: str
    worker: str = ""
    name: str = ""
    row: int = 0
    id: str = ""


@record
class SealedTask:
    """A function and its argument as bytes, which are read only by a worker with the same versions. This class and
    `run_sealed` stay as they are in later versions."""

    versions: Mapping[str, str]
    content: bytes = field(repr=False)  # it may have a link


def run_sealed(task: SealedTask) -> Any:
    """Run a task, unless this worker has other versions than the coordinator: it may have joined after the start."""
    if different := differences(versions(), task.versions):
        return Failure("versions", different, worker())
    from distributed.protocol import pickle

    _stop_profiler()
    function, argument = pickle.loads(task.content)  # type: ignore[no-untyped-call]
    return function(argument)


@record
class Facts:
    """What a worker says about itself: versions by name, and why it cannot use the storage (empty if it can)."""

    versions: dict[str, str]
    problem: str


def _stop_profiler() -> None:
    """Stop Dask's profiler on Python 3.11, where looking at the stacks of threads while one is started can deadlock the
    process: the worker would hang until the scheduler gives it up, after minutes."""
    from distributed import get_worker

    if sys.version_info >= (3, 12):
        return
    with suppress(ValueError):  # not on a worker
        worker = get_worker()
        if profiler := worker.periodic_callbacks.get("profile"):
            worker.loop.add_callback(profiler.stop)


@cache  # reading them takes 2 ms, and each task needs them
def versions() -> dict[str, str]:
    """Return the versions on which the results of tasks depend. Major and minor are enough of Python's."""
    found = {name: version(name) for name in ("distributed", "numpy", "pyarrow")}
    return {"bulkpull": __version__, "Python": ".".join(platform.python_version_tuple()[:2])} | found


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Return in what the versions of a worker differ from those of the coordinator; empty if in nothing."""
    different = sorted(name for name in ours if theirs.get(name) != ours[name])
    return ", ".join(f"{name} {theirs.get(name)} instead of {ours[name]}" for name in different)


def facts(storage: Storage, output: Storage, suffix: str) -> Facts:
    """Return what a worker says about itself."""
    # Imported here: what cannot be imported is to be known before the first export.
    import bulkpull.cluster.bucket
    import bulkpull.cluster.scatter  # noqa: F401

    problem, probe = "", f"probe-{uuid4().hex}{suffix}.tmp"
    try:
        if not storage.exists(OPEN):
            problem = f"it does not see what the coordinator has written to {storage}"
        else:
            for place in (storage, output):
                place.write(probe, b"")
                place.delete([probe])
    except BulkpullError as error:
        problem = str(error)
    return Facts(versions(), problem)


class ExpiredError(PartError):
    """The file host rejects the link, which only the coordinator can renew."""


class _Closed(Exception):  # noqa: N818 - not an error: nobody waits for the task any more
    pass


def put(parts: Storage, *objects: tuple[Storage, str, Path]) -> None:
    """Write objects, and remove them again if the pull has ended meanwhile, as `parts` tells."""
    for storage, name, path in objects:
        storage.put(name, path)
    if not parts.exists(OPEN):
        for storage, name, _ in objects:
            storage.delete([name])
        raise _Closed


@contextmanager
def failures(failed: list[Failure]) -> Iterator[None]:
    """Add errors of hosts, disks and storage to `failed`, instead of raising them."""
    kind: Kind
    more: dict[str, Any] = {}
    try:
        yield
        return
    except ExpiredError as error:
        kind, message = "expired", str(error)
    except FileMissingError as error:
        kind, message = "missing", str(error)
    except MalformedPartError as error:
        kind, message = "malformed", str(error)
    except PartError as error:
        kind, message = "part", str(error)
    except FormatError as error:
        kind, message, more = "format", error.reason, {"row": error.row, "id": error.id}
    except DamagedError as error:
        kind, message, more = "damaged", str(error), {"name": error.name}
    except BulkpullError as error:
        kind, message = "storage", str(error)
    except OSError as error:
        kind, message = "storage", f"the disk failed: {error.strerror or error}"
    except _Closed:
        kind, message = "closed", "the pull has ended"
    failed.append(Failure(kind, message, worker(), **more))


@contextmanager
def directory_of_task() -> Iterator[Path]:
    """A temporary directory, among the worker's own files."""
    from distributed import get_worker

    try:
        parent = get_worker().local_directory
    except ValueError:  # not on a worker
        parent = None
    with tempfile.TemporaryDirectory(prefix="bulkpull-", dir=parent) as directory:
        yield Path(directory)


def worker() -> str:
    """Return the address of the worker; empty elsewhere."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""
