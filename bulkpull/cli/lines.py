"""One line of text per event."""

from __future__ import annotations

from rich.filesize import decimal

from bulkpull import events
from bulkpull.events import Event
from bulkpull.window import total_count


def line(event: Event, *, verbose: bool) -> str | None:
    """Return the line for an event, None if it has none: trouble always has one, progress if `verbose`."""
    match event:
        case events.Resumed():
            return (
                f"resuming: {event.merged:,} windows merged ({event.rows:,} rows), {event.exported:,} exported, "
                f"{event.exporting:,} exporting; {event.whole:,} parts downloaded, {event.half:,} in part"
                + (f"; {event.skipped:,} windows skipped" if event.skipped else "")
            )
        case events.Planned() if event.uncounted:
            return f"activity could not be counted; windows have equal length: {event.uncounted}"
        case events.Split():
            again = ", which are exported in addition" if event.is_merged else ""
            return f"{event.window}: split into {len(event.pieces):,} windows{again}: {event.reason}"
        case events.CountsDoubted():
            return f"the API's counts are unreliable: {event.reason}"
        case events.Refused():
            return (
                f"{event.window}: launch refused with {event.exports:,} other exports in flight; retrying when one of "
                f"them ends: {event.reason}"
            )
        case events.Reconciling():
            counted = "activity listed" if event.counted is None else f"{event.counted:,} counted"
            return f"{event.window}: {event.ids:,} ids delivered, {counted}; {event.step}"
        case events.Skipped():
            return f"{event.window}: skipped: {event.reason}"
        case events.ExportFailed():
            return f"{event.window}: export {event.export_id} failed: {event.reason}"
        case events.Throttled():
            return f"{event.route}: throttled (429); all requests pause for {event.wait:.0f} s"
        case events.ColumnsDiffer():
            return f"{event.window}, part {event.part}: " + "; ".join(
                f"{what}: {', '.join(names)}"
                for what, names in (("missing columns", event.missing), ("dropped columns", event.unasked))
                if names
            )
        case events.PartMerged() if event.outside and not verbose:
            return f"{event.window}, part {event.part}: {event.outside:,} rows outside the window"
    return _verbose_line(event) if verbose else None


def _verbose_line(event: Event) -> str | None:
    match event:
        case events.Planned():
            rows = total_count(event.windows)
            probed = f", {rows:,} activities counted with {event.probes:,} requests" if rows and event.probes else ""
            return f"{len(event.windows):,} windows{probed}"
        case events.Retried():
            return f"{event.what}: attempt {event.attempt} failed: {event.reason}; retrying in {event.wait:.1f} s"
        case events.Recovered():
            return f"{event.what}: attempt {event.attempt} succeeded"
        case events.QuotaExhausted() if event.wait >= 1:
            return f"request budget used up; next request in {event.wait:.0f} s"
        case events.Limited():
            return f"limits: {event.exports:,} concurrent exports, {event.downloads:,} concurrent downloads"
        case events.Launched():
            return f"{event.window}: export {event.export_id} launched"
        case events.Polled():
            return f"{event.window}: {event.status} after {event.waited:.1f} s"
        case events.Exported():
            return f"{event.window}: exported {event.parts} parts in {event.seconds:.1f} s"
        case events.PartFetched():
            return f"{event.window}, part {event.part}: downloaded {decimal(event.size)}"
        case events.PartMerged():
            return (
                f"{event.window}, part {event.part}: {event.rows:,} rows, {event.duplicates:,} duplicates, "
                f"{event.conflicts:,} conflicts, {event.outside:,} outside the window"
            )
        case events.WindowMerged():
            return f"{event.window}: merged"
    return None
