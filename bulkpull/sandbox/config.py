"""The configuration and the statistics of a sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from bulkpull.errors import UsageError
from bulkpull.record import record


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The configuration of a sandbox.

    Args:
        rows: Number of activities.
        start: Start of the range in which they are created, inclusive.
        end: End of that range, exclusive.
        peak: Fraction of the activities that falls into one week.
        burst: Number of activities at the same instant, in the middle of the range.
        seed: Seed of the generated data.
        token: The token that the API accepts.
        port: Port of the API; 0 chooses a free one.
        workers: Number of exports processed at the same time.
        export_seconds: Typical duration of an export, in seconds.
        rows_per_file: Maximum number of rows per file.
        requests_per_minute: The rate limit.
        counting: Whether the list route counts; if not, counting requests are refused.
        link_seconds: Seconds for which a link is valid.
        store: Another server for the files, see `storage.open_storage`. File faults do not apply to it, and its
            downloads are not counted.
        file_latency: Seconds until the first byte of a file, like that of an object store.
        faults: A fault profile, see `faults.Faults`.
        fault_seconds: Seconds that a hang or a stall takes.

    Raises:
        UsageError: The range is empty, or `burst` and `peak` are contradictory.
    """

    rows: int = 10_000
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    peak: float = 0.0
    burst: int = 0
    seed: int = 0
    token: str = "sandbox-token"  # noqa: S105 - not a secret
    port: int = 0
    workers: int = 8
    export_seconds: float = 1.0
    rows_per_file: int = 10_000
    requests_per_minute: int = 2000
    counting: bool = True
    link_seconds: float = 300.0
    store: str = field(default="", repr=False)  # may contain keys
    file_latency: float = 0.02
    faults: str = ""
    fault_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise UsageError("the start of a sandbox's activity must be before its end")
        if self.burst > self.rows or (self.burst and self.peak):
            raise UsageError("a burst cannot have more rows than the sandbox, or be combined with a peak")


@record(frozen=False)
class SandboxStats:
    """What a sandbox has observed.

    `requests` are counted by route, `throttled` without injected 429 responses. `leaks` counts requests to the file
    host with an Authorization header, `lost_posts` exports started although the response was lost, and `faults` the
    injected faults by kind. `worked` is the total time of all exports in seconds, `longest` that of the longest one.
    """

    requests: dict[str, int] = field(default_factory=dict)
    throttled: int = 0
    unauthorized: int = 0
    downloads: int = 0
    ranges: int = 0
    leaks: int = 0
    exports: int = 0
    lost_posts: int = 0
    worked: float = 0.0
    longest: float = 0.0
    peak_exports: int = 0
    peak_requests: int = 0
    peak_downloads: int = 0
    bytes_sent: int = 0
    faults: dict[str, int] = field(default_factory=dict)
