"""`bulkpull list`: the unfinished pulls below a directory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

import bulkpull
from bulkpull.cli.options import JSON_HELP
from bulkpull.cli.settings import Command, Setting
from bulkpull.cli.tables import path_json, show, table
from bulkpull.options import DISPLAY


@click.command(name="list", cls=Command)
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@click.option("--json", "as_json", cls=Setting, group=DISPLAY, is_persistent=False, is_flag=True, help=JSON_HELP)
def list(directory: Path, as_json: bool) -> None:
    """List the unfinished pulls below DIRECTORY, which defaults to the current one.

    Shows how far each is, since when, whether a process is running it, and where its progress is.
    """
    found, unreadable = bulkpull.unfinished(directory)
    if as_json:
        import orjson

        pulls = [
            {
                "output": path_json(one.output),
                "directory": path_json(one.directory),
                "running": one.running,
                "pid": one.pid,
                "since": one.since,
                "runs": one.runs,
                "windows": len(one.windows),
                "windows_merged": Counter(window.state for window in one.windows)["merged"],
                "rows": one.merged.rows,
            }
            for one in found
        ]
        bad = [{"directory": path_json(path), "reason": reason} for path, reason in unreadable.items()]
        click.echo(orjson.dumps({"pulls": pulls, "unreadable": bad}))
        return
    if found:
        from rich.filesize import decimal
        from rich.markup import escape

        shown = table("output", "merged", "rows", "size", "since (UTC)", "process", "progress in")
        for one in found:
            merged = sum(window.state == "merged" for window in one.windows)
            shown.add_row(
                escape(_relative(Path(one.output), directory)),
                f"{merged:,} of {len(one.windows):,}",
                f"{one.merged.rows:,}",
                decimal(one.size),
                one.since[:16].replace("T", " ") if one.since else "not launched",
                f"pid {one.pid}" if one.running else "not running",
                escape(_relative(one.directory, directory)),
            )
        show(shown)
    for path, reason in unreadable.items():
        click.echo(f"{_relative(path, directory)}: {reason}", err=True)
    if not found and not unreadable:
        click.echo(f"No unfinished pulls below {directory}.")


def _relative(path: Path, directory: Path) -> str:
    base = directory.resolve()
    resolved = path.resolve()
    return str(resolved.relative_to(base)) if resolved.is_relative_to(base) else str(path)
