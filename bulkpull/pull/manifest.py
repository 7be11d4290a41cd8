"""The manifest of a finished pull, from its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bulkpull import __version__
from bulkpull.journal import Journal, encoded
from bulkpull.pull.completeness import Completeness, CountMismatch
from bulkpull.pull.options import RunOptions
from bulkpull.source import Columns
from bulkpull.store import Manifest, ManifestCompleteness, ManifestMismatch, ManifestWindow
from bulkpull.window import instant


def manifest_of(
    journal: Journal, identity: Mapping[str, str], options: RunOptions, columns: Columns, found: Completeness
) -> Manifest:
    """Return the manifest of a finished pull, without the files of its output.

    Blocks on the disk. Raises OutputError.

    Args:
        journal: What the pull has done.
        identity: The options that identify the pull, as the journal records them.
        options: All options.
        columns: The columns that have a meaning.
        found: How complete the pull is.
    """
    frontier = journal.frontier
    windows = _windows(journal)
    return Manifest(
        bulkpull=__version__,
        created=instant(datetime.now(UTC)),
        source=identity["base_url"],
        key=columns.key,
        start=identity["start"],
        end=journal.end,
        filter=identity["filter"],
        fields=tuple(options.fields or ()),
        columns=frontier.columns or options.names(columns),
        written_as=options.output_format,
        rows=frontier.figures.rows,
        duplicates=frontier.figures.duplicates,
        conflicts=frontier.figures.conflicts,
        outside=frontier.figures.outside,
        completeness=ManifestCompleteness(
            complete=found.known_by != "short",
            known_by=found.known_by,
            doubt=journal.doubt,
            skipped=sum(window.skipped is not None for window in windows),
            short=_mismatches(found.short),
            over=_mismatches(found.over),
        ),
        windows=windows,
        files=(),
        timeline=encoded(journal.timeline(str(options.output_format))),
    )


def _windows(journal: Journal) -> tuple[ManifestWindow, ...]:
    exports, reasons = journal.successful_exports(), journal.skip_reasons()
    outcomes = {outcome.window.index: outcome for outcome in journal.outcomes()}
    return tuple(
        ManifestWindow(
            start=instant(window.start),
            end=instant(window.end),
            counted=window.rows,
            delivered=outcomes[window.index].ids,
            rows=outcomes[window.index].rows or 0,
            exports=exports.get(window.index, ()),
            skipped=reasons.get(window.index),
        )
        for window in journal.windows
    )


def _mismatches(found: Sequence[CountMismatch]) -> tuple[ManifestMismatch, ...]:
    return tuple(
        ManifestMismatch(instant(one.window.start), instant(one.window.end), one.counted, one.delivered)
        for one in found
    )
