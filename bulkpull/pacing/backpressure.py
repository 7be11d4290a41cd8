"""Backpressure: whether a download or an export may start, given the bytes that wait on the disk to be merged."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from bulkpull.window import Window

MAX_MERGEABLE_BYTES = 128_000_000
MAX_WAITING_EXPORTS = 16  # that have succeeded, while no download may start


class Backpressure:
    """Counts the downloaded parts that are not merged yet.

    Downloads of the window that the merge awaits may always start. Others may not while `max_spooled_bytes` or more are
    spooled, nor while `MAX_MERGEABLE_BYTES` or more could be merged at once: running ahead of a busy merge only fills
    the page cache. Downloads in progress are not counted.

    `windows` are those to be merged, in the order of the merge.
    """

    def __init__(self, max_spooled_bytes: int, windows: Iterable[Window] = ()) -> None:
        self._max_spooled_bytes = max_spooled_bytes
        self._order = list(windows)
        self._bytes: Counter[int] = Counter()  # spooled, by window
        self._missing: dict[int, int] = {}  # parts that are not downloaded yet, by exported window

    def may_start(self, window: Window) -> bool:
        """Return whether a download of this window may start."""
        if self._order and window.start <= self._order[0].start:
            return True
        return not self._is_full()

    def may_launch(self) -> bool:
        """Return whether another export may be launched: not while many wait for downloads that may not start.

        The window that is merged next is launched in any case, since all others wait for it.
        """
        if not self._order or self._order[0].index not in self._missing or not self._is_full():
            return True
        return sum(missing > 0 for missing in self._missing.values()) < MAX_WAITING_EXPORTS

    def export_succeeded(self, window: Window, parts: int) -> None:
        """Record that an export of the window has so many parts to download."""
        self._missing[window.index] = parts

    def part_downloaded(self, window: Window, size: int) -> None:
        """Record that a part of the window is on the disk."""
        self._bytes[window.index] += size
        self._missing[window.index] = max(0, self._missing.get(window.index, 0) - 1)

    def export_failed(self, window: Window) -> None:
        """Record that the parts of the window are of no use; it is still to be merged."""
        del self._bytes[window.index]
        self._missing.pop(window.index, None)

    def window_left(self, window: Window) -> None:
        """Record that the window was merged or skipped."""
        self.export_failed(window)
        self._order = [other for other in self._order if other.index != window.index]

    def window_split(self, window: Window, pieces: Sequence[Window], *, is_merged: bool) -> None:
        """Record that the pieces are to be merged in place of the window, or after it if it `is_merged` already."""
        if is_merged:  # though window_left may not have been called yet
            self.export_failed(window)
        else:
            self.window_left(window)
        at = bisect_left(self._order, window.start, key=_start)
        self._order[at:at] = pieces

    def _is_full(self) -> bool:
        return self._bytes.total() >= self._max_spooled_bytes or self._mergeable_bytes() >= MAX_MERGEABLE_BYTES

    def _mergeable_bytes(self) -> int:
        """The bytes of leading windows that are complete; counted no further than needed."""
        size = 0
        for window in self._order:
            if self._missing.get(window.index) != 0 or size >= MAX_MERGEABLE_BYTES:
                break
            size += self._bytes[window.index]
        return size


def _start(window: Window) -> datetime:
    return window.start
