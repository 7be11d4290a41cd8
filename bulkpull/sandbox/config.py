"""What a sandbox is like, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from bulkpull.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """What a sandbox is like. Seconds are real seconds; `port` 0 takes a free one; `peak` is the share of rows that
    falls into one week; `burst` rows share the instant in the middle; without `counting` the list route refuses to
    count; `faults` see `Faults`.
    `store` names another server for the files (see `storage.connected`): it is beyond the reach of file faults, and
    `Seen` does not count its downloads."""

    rows: int = 10_000
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    peak: float = 0.0
    burst: int = 0
    seed: int = 0
    token: str = "sandbox-token"  # noqa: S105 - for anybody to use
    port: int = 0
    workers: int = 8
    export_seconds: float = 1.0
    rows_per_file: int = 10_000
    requests_per_minute: int = 2000
    counting: bool = True
    link_seconds: float = 300.0
    store: str = field(default="", repr=False)  # may hold keys
    file_latency: float = 0.02  # until the first byte, as an object store has it
    faults: str = ""
    fault_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise UsageError("a sandbox's activity must start before it ends")
        if self.burst > self.rows or (self.burst and self.peak):
            raise UsageError("a burst cannot have more rows than there are, nor stand beside a peak")


@dataclass(slots=True)
class Seen:
    """What a sandbox saw. `worked` are the seconds that its workers spent on exports, and `longest` those of the
    longest. `leaks` counts requests to the file origin that carried an Authorization header, `lost_posts` exports that
    were started though the answer was lost, `faults` what was injected of each kind; `throttled` does not count
    injected 429."""

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
