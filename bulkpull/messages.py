"""One sentence per event, for logs and for the terminal."""

from __future__ import annotations

from bulkpull import events
from bulkpull.events import Event
from bulkpull.window import total_count


def message(event: Event) -> str:
    """Return what happened in one sentence without a full stop; empty for events that only count bytes."""
    return _exceptional(event) or _usual(event)


def _exceptional(event: Event) -> str:
    """The sentence of what needs attention."""
    match event:
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
        case events.ColumnsEmpty():
            return f"columns without a value: {', '.join(event.columns)}"
        case events.Retried():
            return f"{event.what}: attempt {event.attempt} failed: {event.reason}; retrying in {event.wait:.1f} s"
        case events.Recovered():
            return f"{event.what}: attempt {event.attempt} succeeded"
        case events.QuotaExhausted():
            return f"request budget used up; next request in {event.wait:.0f} s"
    return ""


def _usual(event: Event) -> str:
    match event:
        case events.Resumed():
            return (
                f"resuming: {event.merged:,} windows merged ({event.rows:,} rows), {event.exported:,} exported, "
                f"{event.exporting:,} exporting; {event.whole:,} parts downloaded, {event.half:,} in part"
                + (f"; {event.skipped:,} windows skipped" if event.skipped else "")
            )
        case events.Planned():
            rows = total_count(event.windows)
            probed = f", {rows:,} activities counted with {event.probes:,} requests" if rows and event.probes else ""
            return f"{len(event.windows):,} windows{probed}"
        case events.Requested():
            return f"{event.route}: request"
        case events.Limited():
            return f"limits: {event.exports:,} concurrent exports, {event.downloads:,} concurrent downloads"
        case events.Launched():
            return f"{event.window}: export {event.export_id} launched"
        case events.Polled():
            return f"{event.window}: {event.status} after {event.waited:.1f} s"
        case events.Exported():
            return f"{event.window}: exported {event.parts} parts in {event.seconds:.1f} s"
        case events.PartFetched():
            return f"{event.window}, part {event.part}: downloaded {event.size:,} bytes"
        case events.MergeAwaited():
            held = "a launch" if event.window is None else f"the download of {event.window}"
            return f"{held} waits until more has been merged"
        case events.PartMerged():
            return (
                f"{event.window}, part {event.part}: {event.rows:,} rows, {event.duplicates:,} duplicates, "
                f"{event.conflicts:,} conflicts, {event.outside:,} outside the window"
            )
        case events.WindowAppended():
            return f"{event.window}: appended in {event.seconds:.1f} s"
        case events.WindowMerged():
            return f"{event.window}: merged"
        case events.WorkersChanged():
            return f"workers: {event.workers:,}, threads: {event.threads:,}"
        case events.TaskEnded():
            return f"{event.task}: done in {event.seconds:.1f} s by {event.worker}"
        case events.BucketMerged():
            return f"bucket {event.bucket:,}: merged, {event.merged:,} of {event.buckets:,}"
        case events.Deduplicated():
            return (
                f"{event.rows:,} rows in all, {event.duplicates:,} duplicates, {event.conflicts:,} conflicts, "
                f"{event.outside:,} outside their windows"
            )
        case events.Published():
            return "output published"
    return ""
