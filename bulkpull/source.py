"""What a pull needs of the API: a handful of methods. Clickwrap has them, and so may a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

from bulkpull.clickwrap import Export
from bulkpull.download.link import Download
from bulkpull.events import OnEvent
from bulkpull.retry import RetryPolicy


class Api(Protocol):
    """The methods are documented at `bulkpull.Clickwrap`."""

    retry: RetryPolicy

    @property
    def base_url(self) -> str: ...

    @property
    def requests_per_minute(self) -> int: ...

    @property
    def throttled_at(self) -> float | None: ...

    def observed(self, on_event: OnEvent) -> Self: ...

    async def start_export(self, filter: str, fields: Sequence[str] = ()) -> Export: ...

    async def export_fields(self, site: str | int) -> list[str]: ...

    async def get_export(self, export_id: str) -> Export: ...

    async def count(self, filter: str | None = None) -> int: ...

    async def any_activity(self, filter: str | None = None) -> bool: ...

    def download(
        self, link: str, *, offset: int = 0, validator: str | None = None
    ) -> AbstractAsyncContextManager[Download]: ...
