"""Storage servers for export files, instead of the sandbox's own file host: S3 or nginx."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from bulkpull.errors import UsageError

FORMS = "s3://BUCKET?endpoint=URL or file:///DIRECTORY?url=URL&secret=TEXT"


class Storage(Protocol):
    """A server that stores files and serves them under expiring links."""

    def put(self, file: Path) -> None:
        """Upload a file. Blocks. Raises OSError if the server rejects it."""

    def link(self, file: Path) -> str:
        """Return a fresh link to an uploaded file."""


@contextmanager
def open_storage(store: str, link_seconds: float) -> Iterator[Storage]:
    """Connect to the server that `store` names. Blocks.

    Args:
        store: `s3://BUCKET?endpoint=URL` is a bucket of an S3 server, created if it does not exist. The keys come from
            AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from `s3://KEY:SECRET@BUCKET`. `&public=URL` is the
            server's address in links, which defaults to `endpoint`.
            `file:///DIRECTORY?url=URL&secret=TEXT` is a directory that nginx serves at `url` with
            `secure_link $arg_md5,$arg_expires` and `secure_link_md5 "$secure_link_expires$uri TEXT"`.
        link_seconds: How long a link is valid, rounded to whole seconds, at least 1.

    Raises:
        UsageError: `store` has another form, keys are missing, or boto3 is not installed.
        OSError: The server cannot be reached or refuses the bucket.
    """
    parts = urlsplit(store)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    seconds = max(1, round(link_seconds))
    prefix = token_hex(4)  # sandboxes with the same seed may share a bucket and use the same file names
    match parts.scheme, options:
        case "s3", {"endpoint": endpoint} if parts.hostname:
            key = unquote(parts.username or "") or os.environ.get("AWS_ACCESS_KEY_ID", "")
            secret = unquote(parts.password or "") or os.environ.get("AWS_SECRET_ACCESS_KEY", "")
            if not key or not secret:
                raise UsageError("the store needs keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            public = options.get("public", endpoint)
            with _client(endpoint, key, secret) as uploads, _client(public, key, secret) as links:
                bucket = _Bucket(parts.hostname, prefix, uploads, links, seconds)
                bucket.create()
                yield bucket
        case "file", {"url": url, "secret": secret} if parts.path:
            yield _Directory(Path(unquote(parts.path)), prefix, url.rstrip("/"), secret, seconds)
        case _:
            raise UsageError(f"the store must look like {FORMS}")


class _Bucket:
    """A bucket on an S3 server, with presigned links (AWS Signature Version 4)."""

    def __init__(self, name: str, prefix: str, uploads: Any, links: Any, seconds: int) -> None:
        self._name, self._prefix, self._seconds = name, prefix, seconds
        self._uploads, self._links = uploads, links

    def create(self) -> None:
        exceptions = self._uploads.exceptions
        with _server_errors(), suppress(exceptions.BucketAlreadyOwnedByYou, exceptions.BucketAlreadyExists):
            self._uploads.create_bucket(Bucket=self._name)

    def put(self, file: Path) -> None:
        with _server_errors(), file.open("rb") as body:
            self._uploads.put_object(
                Bucket=self._name, Key=self._key(file), Body=body, ContentType="text/csv; charset=utf-8"
            )

    def link(self, file: Path) -> str:
        asked = {"Bucket": self._name, "Key": self._key(file)}
        return str(self._links.generate_presigned_url("get_object", Params=asked, ExpiresIn=self._seconds))

    def _key(self, file: Path) -> str:
        return f"{self._prefix}/{file.name}"


class _Directory:
    """A directory served by nginx, with links of its secure_link module."""

    def __init__(self, path: Path, prefix: str, url: str, secret: str, seconds: int) -> None:
        self._path, self._prefix, self._seconds = path, prefix, seconds
        self._url, self._secret = url, secret

    def put(self, file: Path) -> None:
        shutil.copyfile(file, self._path / f"{self._prefix}-{file.name}")

    def link(self, file: Path) -> str:
        url = f"{self._url}/{self._prefix}-{file.name}"
        expires = int(time.time()) + self._seconds
        signed = f"{expires}{urlsplit(url).path} {self._secret}".encode()
        digest = hashlib.md5(signed, usedforsecurity=False).digest()  # the only hash that the module supports
        return f"{url}?md5={urlsafe_b64encode(digest).rstrip(b'=').decode()}&expires={expires}"


@contextmanager
def _client(endpoint: str, key: str, secret: str) -> Iterator[Any]:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError("an S3 store needs boto3: install it with pip install 'bulkpull[sandbox-s3]'") from None
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},  # an IP address cannot have a subdomain for the bucket
        request_checksum_calculation="when_required",  # many servers do not support trailing checksums
    )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=os.environ.get("AWS_REGION", "us-east-1"),
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=config,
        )
    except ValueError:
        raise UsageError(f"the store's endpoint {endpoint!r} is not a URL such as http://127.0.0.1:9000") from None
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _server_errors() -> Iterator[None]:
    """Turn botocore's errors into OSError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"the S3 server failed: {error}") from error
