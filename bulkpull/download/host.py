"""What a transfer learns about its host."""

from __future__ import annotations

from bulkpull.download.protocols import Version

MAX_FAILURES = 2  # range requests in a row without a byte, until the whole file is requested to see if that works


class RangeSupport:
    """Whether the host can be asked for the rest of a file.

    After MAX_FAILURES failed range requests a probe asks for the whole file. If that fails too, the host has an outage,
    which says nothing about ranges. If it works, one more failed range request means that ranges do not work.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._works = True

    @property
    def works(self) -> bool:
        return self._works

    @property
    def should_probe(self) -> bool:
        return self._failures == MAX_FAILURES

    @property
    def is_suspect(self) -> bool:
        """Whether so many range requests failed that the range may be the reason."""
        return self._failures >= MAX_FAILURES

    def record_success(self) -> None:
        """A request brought bytes, or a probe failed: ranges are not the problem."""
        self._failures = 0

    def record_failure(self) -> None:
        """A range request brought nothing."""
        self._failures += 1
        if self._failures > MAX_FAILURES + 1:
            self._works = False

    def record_probe(self) -> None:
        """A probe got the whole file."""
        self._failures = MAX_FAILURES + 1

    def suspect(self) -> None:
        """Probe next."""
        self._failures = max(self._failures, MAX_FAILURES)

    def give_up(self) -> None:
        """Never ask for a range again."""
        self._works = False


class PromisedLengths:
    """The greatest length that the host announced for each version of the file."""

    def __init__(self) -> None:
        self._by_validator: dict[str, int] = {}
        self._has_doubted = False

    def record(self, version: Version) -> None:
        if version.validator and version.length:
            self._by_validator[version.validator] = max(version.length, self._by_validator.get(version.validator, 0))

    def clear(self) -> None:
        self._by_validator.clear()

    def contradict(self, version: Version, size: int) -> int:
        """Return the promised length if it exceeds `size`, else 0. After the first time, always 0: the host is
        believed."""
        promised = self._by_validator.get(version.validator or "", 0)
        if promised <= size or self._has_doubted:
            return 0
        self._has_doubted = True
        return promised
