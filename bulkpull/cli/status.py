"""`bulkpull status`: show the progress of an unfinished pull."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

import bulkpull
from bulkpull.cli.options import JSON_HELP, Output, state_option
from bulkpull.cli.settings import Command, Setting, config_options
from bulkpull.cli.tables import path_json, show, table, window_json
from bulkpull.options import DISPLAY
from bulkpull.window import instant


@click.command(cls=Command)
@click.argument("file", type=Output())
@state_option
@click.option("--json", "as_json", cls=Setting, group=DISPLAY, is_persistent=False, is_flag=True, help=JSON_HELP)
@click.option(
    "--watch",
    "watches",
    cls=Setting,
    group=DISPLAY,
    is_persistent=False,
    is_flag=True,
    help="Show it live until the pull ends.",
)
@config_options
def status(file: Path | str, state: Path | None, as_json: bool, watches: bool) -> None:
    """Show the progress of the unfinished pull to FILE.

    Only reads its journal, without a lock: a running pull is not disturbed.
    """
    if watches:
        if as_json:
            raise bulkpull.UsageError("--watch and --json exclude each other")
        from bulkpull.cli.watch import watch

        watch(file, state)
        return
    import orjson
    from rich.filesize import decimal
    from rich.markup import escape

    found = bulkpull.status(file, state)
    if as_json:
        windows = [
            window_json(one.window) | {name: value for name, value in asdict(one).items() if name != "window"}
            for one in found.windows
        ]
        paths = {"output": path_json(found.output), "directory": path_json(found.directory)}
        click.echo(orjson.dumps(asdict(found) | paths | {"windows": windows}))
        return
    shown = table("window", "start", "end", "state", "counted", "launches", "files", "rows", "export")
    for one in found.windows:
        shown.add_row(
            str(one.window.index + 1),
            instant(one.window.start),
            instant(one.window.end),
            one.state,
            "" if one.window.rows is None else f"{one.window.rows:,}",
            str(one.launches),
            f"{one.whole}/{one.parts}" if one.parts else "",
            f"{one.rows:,}" if one.state == "merged" else "",
            escape(f"{one.export_id or ''} {one.failure or ''}".strip()),
        )
    show(shown)
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.options.items() if value)
    click.echo(f"{found.output}: {options}")
    running = f"running (pid {found.pid})" if found.running else "not running"
    if found.trouble:
        click.echo(str(found.trouble))
    states = Counter(one.state for one in found.windows)
    click.echo(
        f"{running}, run {found.runs:,}; {len(found.windows):,} windows: "
        f"{', '.join(f'{count:,} {state}' for state, count in states.items())}; {found.splits:,} windows split; "
        f"{found.launches:,} exports launched; {found.merged.rows:,} rows merged ({decimal(found.size)}), "
        f"{found.merged.duplicates:,} duplicates dropped"
    )
