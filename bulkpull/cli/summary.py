"""A finished pull in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from bulkpull import CountMismatch, Result, Window
from bulkpull.waits import plural

_MAX_NAMED = 10  # windows


def summary(result: Result) -> str:
    """Return a few lines on a finished pull."""
    lines = [
        f"{result.rows:,} rows in {result.output}{_size(result.output)}, in {result.seconds:.1f} s"
        + (f" (run {result.runs:,})" if result.runs > 1 else ""),
        f"{plural(result.windows, 'window')}, {plural(result.exports, 'export')}, {plural(result.parts, 'part')}, "
        f"{decimal(result.bytes)} downloaded, {plural(result.requests, 'request')}, {result.retries:,} retries, "
        f"{result.throttled:,} throttled",
        f"{result.duplicates:,} duplicates dropped, {result.conflicts:,} of them conflicts "
        "(same id, different values; the first row is kept)",
    ]
    if result.splits:
        lines.insert(2, f"{result.splits:,} windows split: their exports failed or were truncated")
    if result.short:
        lines.append(
            f"warning: incomplete: {_mismatches(result.short)}. Pull these ranges again later, or accept the "
            "delivered rows (--accept-short)"
        )
    if result.over:
        lines.append(f"more rows than counted: {_mismatches(result.over)}")
    if result.skipped:
        lines.append(f"warning: skipped because they could not be exported: {_named(result.skipped)}")
    if result.outside:
        lines.append(f"warning: {result.outside:,} rows are outside their window: the API ignored the filter for them")
    if result.empty_columns:
        lines.append(
            f"warning: no row has a value in {', '.join(result.empty_columns)}. Does the site have these fields? "
            "Check with `bulkpull fields`."
        )
    if result.throttled:
        lines.append(
            f"warning: {result.throttled:,} requests were throttled (429). Lower --requests-per-minute if other "
            "clients share the token."
        )
    return "\n".join(lines)


def _mismatches(found: Sequence[CountMismatch]) -> str:
    """The first mismatches, in words."""
    named = [
        f"{one.window}: {one.delivered:,} "
        + ("(the export may be truncated)" if one.counted is None else f"of {one.counted:,} counted")
        for one in found[:_MAX_NAMED]
    ]
    return "; ".join(named) + (f"; and {len(found) - _MAX_NAMED:,} more" if len(found) > _MAX_NAMED else "")


def _named(windows: Sequence[Window]) -> str:
    """The names of the first windows."""
    more = f" and {len(windows) - _MAX_NAMED:,} more" if len(windows) > _MAX_NAMED else ""
    return ", ".join(map(str, windows[:_MAX_NAMED])) + more


def _size(output: Path | str) -> str:
    """The size of a file, or of all files in a data set, in parentheses; empty if the output is not local."""
    if isinstance(output, str):
        return ""
    files = output.rglob("*.parquet") if output.is_dir() else [output]
    return f" ({decimal(sum(file.stat().st_size for file in files))})"
