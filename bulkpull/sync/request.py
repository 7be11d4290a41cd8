"""What a sync is asked for, compared with what the table remembers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bulkpull.errors import UsageError
from bulkpull.planning import moment
from bulkpull.source import Source
from bulkpull.sync.options import SyncOptions
from bulkpull.sync.order import Kind
from bulkpull.sync.state import SyncState
from bulkpull.sync.stretches import before
from bulkpull.window import instant


async def request(source: Source, options: SyncOptions, state: SyncState | None) -> tuple[Kind, SyncState]:
    """Return what is to be done, and the state to begin from: that of the table, or a new one.

    Raises:
        UsageError: The table holds another range, filter or field list than is asked for.
        ApiError: The site's fields could not be read.
    """
    if state is None or options.rebuild:
        return "rebuild" if options.rebuild else "first", await _new(source, options)
    _check_same(source, options, state)
    if options.add_field and (added := [name for name in options.add_field if name not in (state.fields or ())]):
        if state.fields is None:
            raise UsageError(
                "the table has all columns that exports have by default, so that none can be added: name all columns "
                "with --fields, and start over with --rebuild"
            )
        return "add field", replace(state, fields=(*state.fields, *added), are_all_fields=False)
    return "full recheck" if options.full_recheck else "increment", state


def frontier(options: SyncOptions, now: datetime, last: datetime) -> datetime:
    """Return the end of what is synced now: `now - settle`, or `end` if that is earlier; never before the last one,
    even if the clock was set back."""
    settled = before(now, options.settle_s)
    settled -= timedelta(microseconds=settled.microsecond % 1000)
    if options.end is not None:
        settled = min(settled, moment(options.end, "end"))
    return max(last, settled)


async def _new(source: Source, options: SyncOptions) -> SyncState:
    if options.start is None:
        raise UsageError("the table was never synced: say from when on, such as --start 2020-01-01")
    fields = tuple(options.fields) if options.fields else None
    if options.asks_for_all_fields:
        assert options.site is not None
        fields = tuple(await source.export_fields(options.site))
    start = moment(options.start, "start")
    return SyncState(
        source=source.base_url,
        filter=source.check_filter(options.filter) or "",
        fields=None if fields is None else tuple(dict.fromkeys((*source.columns.required, *fields))),
        are_all_fields=options.asks_for_all_fields,
        start=start,
        frontier=start,
        revision=0,
        at=instant(datetime.now(UTC)),
    )


def _check_same(source: Source, options: SyncOptions, state: SyncState) -> None:
    """Raise UsageError for options that differ from those remembered; those not given are taken from there."""
    different = []
    if source.base_url != state.source:
        different.append(("source", source.base_url, state.source))
    if options.start is not None and (start := moment(options.start, "start")) != state.start:
        different.append(("start", instant(start), instant(state.start)))
    if options.filter is not None and (filter := source.check_filter(options.filter) or "") != state.filter:
        different.append(("filter", filter or "(none)", state.filter or "(none)"))
    if options.fields is not None and not (options.asks_for_all_fields and state.are_all_fields):
        fields = ("all",) if options.asks_for_all_fields else (*source.columns.required, *options.fields)
        if state.fields is None or set(fields) != set(state.fields):
            different.append(("field list", ",".join(fields), ",".join(state.fields or ("(all columns)",))))
    if different:
        named = "; ".join(f"the {name} {asked} instead of {known}" for name, asked, known in different)
        hint = ", or add columns with --add-field" if any(name == "field list" for name, *_ in different) else ""
        raise UsageError(
            f"the table was synced with other options: now it is {named}. Leave them out to go on as before{hint}; "
            "--rebuild replaces everything"
        )
