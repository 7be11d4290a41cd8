"""What a pull came to, counted from its events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

from bulkpull import events
from bulkpull.events import Event
from bulkpull.pull.completeness import Completeness, CountMismatch, KnownBy
from bulkpull.window import Window, total_count


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a finished pull.

    `rows` stand in `output`; `duplicates` had an id that stood there before, `conflicts` of them with other
    values; `outside` rows lie outside their window, though kept. `exports` counts launches, those whose answer was
    lost included. All these are of the whole pull, however many `runs` it took. Of this run alone are `requests` (to
    the API), `throttled` (its 429 answers), `retries` (of requests and transfers), `bytes` (what came over the wire as
    parts) and `seconds`.

    `complete` says that nothing is known to lack; `completeness` how that is known: every window brought what was
    counted in it (`counts reconciled`), or some were not counted, or the counts contradict each other or the exports
    (`counts unknown`). Otherwise it is `short`: less came of the windows in `short` than there is, or may be, or those
    in `skipped` could not be exported and are not in the output. Of the windows in `over` more came than was counted.
    `counted` is how many activities were expected when the pull was planned, None where that is not known; `doubt` why
    counts cannot be trusted, if so. In the `empty_columns` no row has a value. `probes` requests counted, in this run.
    `splits` windows were cut into pieces.
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
    output: Path
    counted: int | None
    probes: int
    splits: int
    skipped: tuple[Window, ...]
    short: tuple[CountMismatch, ...]
    over: tuple[CountMismatch, ...]
    completeness: KnownBy
    doubt: str
    empty_columns: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is known to lack."""
        return not self.short and not self.skipped


@dataclass(slots=True)
class Tally:
    """A listener that counts."""

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

    def result(
        self, seconds: float, output: Path, skipped: tuple[Window, ...], completeness: Completeness, doubt: str
    ) -> Result:
        """The figures so far."""
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
        )
