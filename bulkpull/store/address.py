"""Addresses of outputs in object storage, such as `s3://bucket/key.csv`."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import PurePath
from typing import Self
from urllib.parse import urlsplit

from bulkpull.errors import UsageError
from bulkpull.record import record

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
_KNOWN = "s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY"
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}):/[^/]")


@record
class ObjectUrl:
    """An object, or the prefix of several: the URL of its bucket without a slash at the end, and a key."""

    bucket: str
    key: str

    @classmethod
    def of(cls, output: str | os.PathLike[str]) -> Self | None:
        """Return the URL that an output is; None for a local path. Raises UsageError for a URL that cannot be one."""
        if isinstance(output, PurePath):
            if _COLLAPSED.match(str(output)):
                raise UsageError(f"the output {output} is a path: pass a URL as a string, since a path has no //")
            return None
        text = os.fspath(output)
        scheme, separator, _ = text.partition("://")
        if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            return None
        parts = urlsplit(text)
        # The rest may hold a password, so that no message repeats it.
        if parts.password is not None or ("@" in parts.netloc and parts.scheme not in ("abfs", "abfss")):
            raise UsageError(
                f"the output is a {scheme} URL with credentials: pass them in the environment, as the provider's own "
                "tools read them"
            )
        if "?" in text or "#" in text:
            raise UsageError(f"the output is a {scheme} URL with a query or a fragment: it must look like {_KNOWN}")
        if parts.scheme not in SCHEMES:
            raise UsageError(f"the output {text!r} is neither a local path nor a URL of object storage: {_KNOWN}")
        key = parts.path.strip("/")
        if not parts.netloc or not key or not all(part.strip(".") for part in key.split("/")):
            raise UsageError(f"the output {text!r} does not name an object: it must look like {_KNOWN}")
        if not text.isprintable():
            raise UsageError(f"the output {text!r} has control characters")
        if find_spec("obstore") is None:
            raise UsageError(f"{parts.scheme} output needs obstore: pip install 'bulkpull[remote]'")
        return cls(f"{parts.scheme}://{parts.netloc}", key)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"
