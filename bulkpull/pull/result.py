"""The result of a pull, counted from its events."""

from __future__ import annotations

from collections import Counter
from dataclasses import field, fields
from pathlib import Path

from bulkpull import events
from bulkpull.events import Event
from bulkpull.pull.completeness import Completeness, CountMismatch, KnownBy
from bulkpull.record import record
from bulkpull.window import Window, total_count


@record
class Result:
    """The figures of a finished pull.

    Of the whole pull, over all its `runs`: `output` has `rows` rows. `duplicates` more were dropped because of their
    id, `conflicts` of them although they had other values. `outside` rows lie outside their window, and are kept.
    `windows`, `exports` (launches, including those whose answer was lost), `parts` and `splits` (split windows) are
    counts. `counted` is how many activities the plan expected; None if that is not known.

    Of this run alone: `requests` to the API, `throttled` (its 429 answers), `retries` of requests and transfers,
    `bytes` of parts received, `probes` (requests that count activities), and `seconds`.

    `completeness` is `counts reconciled` if every window delivered what was counted in it; `counts unknown` if some
    were not counted, or the counts contradict each other or the exports, for the reason in `doubt`; and `short` if
    windows delivered less than there is, or may have (those in `short`), or could not be exported and are left out
    (those in `skipped`). The windows in `over` delivered more than was counted. No row has a value in `empty_columns`.
    `manifest` is the path of the output's manifest; None if the output has none.
    """

    rows: int
    duplicates: int
    conflicts: int
    outside: int
    windows: int
    exports: int
    parts: int
    requests: int
    throttled: int
    retries: int
    bytes: int
    runs: int
    seconds: float
    output: Path | str
    counted: int | None
    probes: int
    splits: int
    skipped: tuple[Window, ...]
    short: tuple[CountMismatch, ...]
    over: tuple[CountMismatch, ...]
    completeness: KnownBy
    doubt: str
    empty_columns: tuple[str, ...]
    manifest: Path | str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.short and not self.skipped


@record(frozen=False)
class Tally:
    """Counts events, as a listener."""

    counts: Counter[str] = field(default_factory=lambda: Counter(runs=1))
    counted: int | None = None
    empty_columns: tuple[str, ...] = ()

    def __call__(self, event: Event) -> None:
        counts = self.counts
        match event:
            case events.Received():
                counts["bytes"] += event.size
            case events.Requested():
                counts["requests"] += 1
            case events.Throttled():
                counts["throttled"] += 1
            case events.Retried():
                counts["retries"] += 1
            case events.Planned():
                counts["windows"] = len(event.windows)
                counts["probes"] = event.probes
                self.counted = total_count(event.windows)
            case events.Split():
                counts["windows"] += len(event.pieces) - (not event.is_merged)
                counts["splits"] += 1
            case events.Resumed():
                counts["runs"] = event.run
                for name in ("parts", "rows", "duplicates", "conflicts", "outside", "exports", "splits"):
                    counts[name] = getattr(event, name)
            case events.Launched():
                counts["exports"] += 1
            case events.PartFetched():
                counts["parts"] += 1
            case events.ColumnsEmpty():
                self.empty_columns = event.columns
            case events.PartMerged():
                counts["rows"] += event.rows
                counts["duplicates"] += event.duplicates
                counts["conflicts"] += event.conflicts
                counts["outside"] += event.outside
            case events.Deduplicated():
                for name in ("rows", "duplicates", "conflicts", "outside"):
                    counts[name] = getattr(event, name)

    def result(
        self,
        seconds: float,
        output: Path | str,
        skipped: tuple[Window, ...],
        completeness: Completeness,
        doubt: str,
        manifest: Path | str | None = None,
    ) -> Result:
        """Return the result, with the figures counted so far."""
        figures = {name.name: self.counts[name.name] for name in fields(Result) if name.type == "int"}
        return Result(
            **figures,
            seconds=seconds,
            output=output,
            counted=self.counted,
            skipped=skipped,
            short=completeness.short,
            over=completeness.over,
            completeness=completeness.known_by,
            doubt=doubt,
            empty_columns=self.empty_columns,
            manifest=manifest,
        )
