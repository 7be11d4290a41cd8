"""Slots: capacity limiters of exports in flight and of downloads, which follow the adaptive limits."""

from __future__ import annotations

import anyio

from bulkpull.events import Limited, OnEvent
from bulkpull.pacing import DownloadLimit, ExportLimit, FixedLimit


class Slots:
    """The slots of one pull. Whoever records something in a limit calls `adjust` next."""

    def __init__(
        self, export_limit: ExportLimit, download_limit: DownloadLimit | FixedLimit, on_event: OnEvent
    ) -> None:
        self.export_limit = export_limit
        self.download_limit = download_limit
        self.exports = anyio.CapacityLimiter(export_limit.value)
        self.downloads = anyio.CapacityLimiter(download_limit.value)
        self._on_event = on_event

    @property
    def are_exports_saturated(self) -> bool:
        """Whether an export waits for a slot."""
        return self.exports.statistics().tasks_waiting > 0

    def adjust(self) -> None:
        """Resize the limiters to the limits, and announce a change."""
        limits = self.export_limit.value, self.download_limit.value
        if limits != (self.exports.total_tokens, self.downloads.total_tokens):
            self.exports.total_tokens, self.downloads.total_tokens = limits
            self._on_event(Limited(*limits))

    def record_bytes(self, size: int) -> None:
        """Record bytes of a download."""
        is_saturated = self.downloads.statistics().tasks_waiting > 0
        self.download_limit.record_bytes(size, anyio.current_time(), is_saturated=is_saturated)
        self.adjust()

    def record_break(self) -> None:
        """Record that a download broke."""
        self.download_limit.record_break(anyio.current_time())
        self.adjust()
