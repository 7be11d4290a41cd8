"""What a download needs of its caller, and what it returns."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bulkpull.errors import PartError
from bulkpull.record import record
from bulkpull.source import Body


class FileMissingError(PartError):
    """The host does not have the file, whatever link is used."""


@record
class Version:
    """How the host identifies the bytes of a file.

    A download can be resumed only if there is a `validator` (a strong ETag). `length` is the size of the whole file in
    bytes, if known.
    """

    validator: str | None = None
    length: int | None = None


@record
class Downloaded:
    """A complete file: its size in bytes and its checksum (XXH3, 128 bits, in hex)."""

    size: int
    checksum: str


class Opener(Protocol):
    """Opens a link; `Source.download` is one. It raises the errors of `PartError`."""

    def __call__(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Body]: ...


class Link(Protocol):
    """A link to one file that can be renewed. Whatever it raises ends the download."""

    async def get(self, expired: str | None = None) -> str:
        """Return the current link, after renewing it if the current one is `expired`."""
        ...


class Checkpoints(Protocol):
    """Where the state of one download survives a crash. The methods block, are called in threads, and return when the
    state is durable."""

    def save_partial(self, version: Version) -> None:
        """Record which version the bytes of the partial file belong to, before they are written."""
        ...

    def save_complete(self, downloaded: Downloaded) -> None:
        """Record that the file is complete."""
        ...


class Progress(Protocol):
    """Is told how a download proceeds."""

    def received(self, size: int) -> None:
        """Report `size` more bytes from the host."""
        ...

    def stored(self, size: int) -> None:
        """Report that the first `size` bytes of the file are at its path; fewer than before if some were discarded."""
        ...

    def retried(self, attempt: int, wait: float, reason: str) -> None:
        """Report that attempt number `attempt` failed, and that the next one follows in `wait` seconds."""
        ...
