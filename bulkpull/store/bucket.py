"""A bucket of an object storage, through obstore, with errors in sentences that hold no credentials."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkpull.errors import BulkpullError, OutputError, UsageError
from bulkpull.record import record
from bulkpull.store.address import ObjectUrl

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ReadableFile
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PART_BYTES = 16 * 1024 * 1024
MAX_PARTS = 10_000  # of S3 and Google Cloud Storage
_CONCURRENT_PARTS = 3  # in addition to the one that is being read
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_METADATA_SERVICE = re.compile(r"169\.254\.\d+\.\d+|metadata\.google|/metadata/")
_IN_ENVIRONMENT = "in the environment, as the provider's own tools read them"
_RECEIPT = "bulkpull"  # metadata of an object; Azure allows no hyphens
_CONTENT_TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}

# Uploads retry for minutes, so that a pull survives an outage; what is asked at the start and at the end fails sooner.
_PART_TIMEOUT_S, _TIMEOUT_S, _CONNECT_TIMEOUT_S = 300, 60, 10
_UPLOAD_RETRY: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
_RETRY: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


class StoreError(OutputError):
    """Object storage refused a request, or failed. `is_permanent` if another attempt cannot succeed."""

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class _Probed(Exception):  # noqa: N818 - not an error: ends an upload that was only to be started
    pass


@record
class Found:
    """An object: its receipt (empty if bulkpull did not write it, or with another version), its size and version."""

    receipt: str
    size: int
    version: Mapping[str, str]


@dataclass(frozen=True)
class Bucket:
    """The bucket of a URL. All methods block, have a deadline, and raise StoreError."""

    url: ObjectUrl

    def find(self, key: str) -> Found | None:
        """Return what is at a key; None if there is nothing."""
        import obstore

        with _store_errors(f"read {self.url.bucket}/{key}"):
            try:
                got = obstore.get(self._store, key, options={"head": True})
            except FileNotFoundError:
                return None
            return Found(dict(got.attributes).get(_RECEIPT, ""), got.meta["size"], _version(got.meta))

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a small object; None if there is none."""
        import obstore

        with _store_errors(f"read {self.url.bucket}/{key}"):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise
                return None

    def read_version(self, key: str) -> tuple[bytes, Mapping[str, str]] | None:
        """Return the bytes of a small object, and its version for `put`; None if there is none."""
        import obstore

        with _store_errors(f"read {self.url.bucket}/{key}"):
            try:
                got = obstore.get(self._store, key)
                return bytes(got.bytes()), _version(got.meta)
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise
                return None

    def open(self, key: str, size: int) -> ObjectReader:
        """Return an object of a given size as a file."""
        import obstore

        with _store_errors(f"read {self.url.bucket}/{key}"):
            return ObjectReader(obstore.open_reader(self._store, key, size=size))

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of an object from `offset` on."""
        import obstore

        with _store_errors(f"read {self.url.bucket}/{key}"):
            return bytes(obstore.get_range(self._store, key, start=offset, length=size))

    def keys(self, prefix: str, *, before: datetime | None = None) -> Iterator[str]:
        """Yield the keys of the objects whose key starts with a prefix and a slash, and that were written before an
        instant, if one is given."""
        import obstore

        with _store_errors(f"list {self.url.bucket}/{prefix}"):
            for chunk in obstore.list(self._store, prefix, chunk_size=1000):
                yield from (one["path"] for one in chunk if before is None or one["last_modified"] < before)

    def confirm_writable(self, key: str) -> None:
        """Start an upload and abort it at once, which needs the permissions of a real one and changes nothing."""
        import obstore

        def nothing() -> Iterator[bytes]:
            raise _Probed
            yield b""

        with _store_errors(f"write to {self.url.bucket}/{key}"):
            try:  # a bucket that does not exist: not every server tells that when an upload is started
                obstore.get(self._store, f"{key}.bulkpull-probe")
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise
            with suppress(_Probed):
                obstore.put(self._store, key, nothing(), use_multipart=True)

    def put(
        self, key: str, data: bytes, *, mode: str | Mapping[str, str], receipt: str = "", content: str = "json"
    ) -> None:
        """Write an object that fits into memory, in one request: one that is killed leaves nothing behind.

        Args:
            key: Where.
            data: What.
            mode: `create`, `overwrite`, or the version that is replaced.
            receipt: The object's receipt.
            content: The name of the format.

        Raises:
            AlreadyExists: There is an object, or one of another version.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with _store_errors(f"write to {self.url.bucket}/{key}"):
            put = partial(
                obstore.put,
                self._upload_store,
                key,
                data,
                attributes=_attributes(receipt, content),
                use_multipart=False,
            )
            try:
                put(mode=mode)  # type: ignore[arg-type]
            except (AlreadyExistsError, PreconditionError):
                raise AlreadyExists(f"{self.url.bucket}/{key}") from None
            except (NotImplementedError, NotSupportedError):  # the store has no conditional writes
                put(mode="overwrite")

    def put_parts(self, key: str, parts: Iterator[bytes], *, receipt: str, content: str) -> None:
        """Write an object of several parts, each of PART_BYTES except the last.

        It appears when `parts` end. If `parts` raise, the upload is aborted and their exception is raised.
        """
        import obstore

        with _store_errors(f"write to {self.url.bucket}/{key}"):
            obstore.put(
                self._upload_store,
                key,
                parts,
                attributes=_attributes(receipt, content),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_CONCURRENT_PARTS,
            )

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that do not exist count as removed."""
        import obstore

        with _store_errors(f"remove objects from {self.url.bucket}"), suppress(FileNotFoundError):
            if keys:
                obstore.delete(self._store, list(keys))

    @cached_property
    def _store(self) -> ObjectStore:
        return self._connected(_RETRY, _TIMEOUT_S)

    @cached_property
    def _upload_store(self) -> ObjectStore:
        return self._connected(_UPLOAD_RETRY, _PART_TIMEOUT_S)

    def _connected(self, retry: RetryConfig, timeout_s: int) -> ObjectStore:
        from obstore.store import from_url

        client: ClientConfig = {
            "timeout": timedelta(seconds=timeout_s),
            "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
        }
        options: dict[str, Any] = {}
        if self.url.bucket.startswith("s3"):
            endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
            if endpoint and not re.match(r"https?://[^/]", endpoint):
                raise UsageError("AWS_ENDPOINT_URL is not a URL such as https://storage.example.com")
            client["allow_http"] = endpoint.startswith("http://")  # as the user asks for
            if _uses_profile():
                options["credential_provider"] = _profile()
        with _store_errors(f"use {self.url.bucket}"):
            return from_url(self.url.bucket, client_options=client, retry_config=retry, **options)


class ObjectReader(io.RawIOBase):
    """An object, as a file that seeks. `reader` is obstore's."""

    def __init__(self, reader: ReadableFile) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer) as view:
            data = memoryview(self._reader.read(len(view)))
            view[: len(data)] = data
            return len(data)


class AlreadyExists(OutputError):  # noqa: N818 - says what is there
    """There is an object where none may be, or another version of it."""


def _version(meta: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(meta[name]) for name in ("e_tag", "version") if meta[name]}


def _attributes(receipt: str, content: str) -> dict[str, str]:
    kind = _CONTENT_TYPES.get(content, "application/octet-stream" if content != "json" else "application/json")
    return {"Content-Type": kind} | ({_RECEIPT: receipt} if receipt else {})


def _uses_profile() -> bool:
    """Whether AWS credentials come from a profile, which obstore leaves to boto3."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return False
    default = Path("~/.aws/credentials").expanduser()
    shared = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", default))
    return bool(os.environ.get("AWS_PROFILE")) or (shared.exists() and find_spec("boto3") is not None)


def _profile() -> Any:
    if find_spec("boto3") is None:
        raise UsageError("AWS_PROFILE needs boto3: pip install boto3")
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except (BotoCoreError, ValueError):
        raise UsageError(
            "AWS_PROFILE or the shared credentials file has no usable credentials: check with `aws sts "
            "get-caller-identity`"
        ) from None


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    """Raise obstore's errors as StoreError. Their own text may hold a key's id and a signature, so it is dropped."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BulkpullError:
        raise
    except (BaseError, FileNotFoundError, ValueError, NotImplementedError) as error:
        reason, is_permanent = _reason(error)
    except OSError as error:  # local files, and boto3's
        reason, is_permanent = error.strerror or type(error).__name__, False
    else:
        return
    raise StoreError(f"cannot {what}: {reason}", is_permanent=is_permanent) from None


def _reason(error: Exception) -> tuple[str, bool]:
    """The cause and what to do, in words, and whether another attempt cannot succeed."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error).partition("\n\nDebug source")[0]
    code = match[1] if (match := re.search(r"<Code>(\w{1,64})</Code>", text)) else ""
    status = int(match[1]) if (match := re.search(r"status(?: code)?: (\d{3})", text)) else None
    said = ", ".join(filter(None, (f"status {status}" if status else "", code)))
    if _NO_BUCKET.search(text):
        return "the bucket does not exist. Create it, or correct the URL", True
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
        return f"permission denied ({said}). Check the credentials, and what they may do in the bucket", True
    if code == "NoSuchUpload":
        return "the storage has discarded the unfinished upload. Run the same command again to upload anew", False
    if isinstance(error, FileNotFoundError):
        return f"there is no such object ({said or 'status 404'})", False
    if isinstance(error, ValueError):
        return "the key is not valid. Choose another", True
    if status in (301, 307, 400) and code in ("PermanentRedirect", "AuthorizationHeaderMalformed", ""):
        return f"the bucket may be in another region ({said}). Set AWS_REGION", True
    if status is None and _METADATA_SERVICE.search(text):
        return f"no credentials were found. Set them {_IN_ENVIRONMENT}", True
    if status is not None:
        return f"the storage answered {said}. Run the same command again later to resume", False
    if "timed out" in text or "Timeout" in text:
        return "no answer in time. Run the same command again later to resume", False
    if "HTTP error" in text:
        return (
            "the storage cannot be reached. Check the network and the endpoint, and run the same command again",
            False,
        )
    return f"its account, region or credentials are not set, or not valid. Set them {_IN_ENVIRONMENT}", True
