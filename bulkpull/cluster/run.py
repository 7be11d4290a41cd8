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
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from uuid import uuid4

from bulkpull import __version__
from bulkpull.cluster.storage import Storage
from bulkpull.download import FileMissingError
from bulkpull.errors import BulkpullError, FormatError, MalformedPartError, OutputError, PartError
from bulkpull.record import record
from bulkpull.store import OPEN

Kind = Literal["expired", "missing", "malformed", "part", "format", "damaged", "storage", "closed"]


@record
class Failure:
    """Why a task brought no result, and on which worker."""

    kind: Kind
    message: str
    worker: str = ""


@record
class Facts:
    """What a worker says about itself: versions by name, and why it cannot use the storage (empty if it can)."""

    versions: dict[str, str]
    problem: str


def versions() -> dict[str, str]:
    """Return the versions on which the results of tasks depend. Major and minor are enough of Python's."""
    found = {name: version(name) for name in ("distributed", "numpy", "pyarrow")}
    return {"bulkpull": __version__, "Python": ".".join(platform.python_version_tuple()[:2])} | found


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


class DamagedError(OutputError):
    """What was written to the storage is not what is there now."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} was changed since it was written. Start over with --fresh")


class _Closed(Exception):  # noqa: N818 - not an error: nobody waits for the task any more
    pass


def put(parts: Storage, storage: Storage, files: Mapping[str, Path]) -> None:
    """Write objects, and remove them again if the pull has ended meanwhile, as `parts` tells."""
    for name, path in files.items():
        storage.put(name, path)
    if not parts.exists(OPEN):
        storage.delete(list(files))
        raise _Closed


@contextmanager
def failures(failed: list[Failure]) -> Iterator[None]:
    """Add errors of hosts, disks and storage to `failed`, instead of raising them."""
    kind: Kind
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
        kind, message = "format", f"id {error.id}: {error.reason}"
    except DamagedError as error:
        kind, message = "damaged", str(error)
    except BulkpullError as error:
        kind, message = "storage", str(error)
    except OSError as error:
        kind, message = "storage", f"the disk failed: {error.strerror or error}"
    except _Closed:
        kind, message = "closed", "the pull has ended"
    failed.append(Failure(kind, message, worker()))


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
