"""`bulkpull report`: write the report of a pull."""

from __future__ import annotations

from pathlib import Path

import click

import bulkpull
from bulkpull.cli.options import Output, state_option
from bulkpull.cli.settings import Command, Setting, config_options
from bulkpull.options import WHERE_TO


@click.command(cls=Command)
@click.argument("file", type=Output())
@click.option(
    "--to",
    cls=Setting,
    group=WHERE_TO,
    is_persistent=False,
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="The page. Defaults to FILE.report.html.",
)
@state_option
@config_options
def report(file: Path | str, to: Path | None, state: Path | None) -> None:
    """Write a report of the pull to FILE: one HTML page that says what took the time.

    The pull may be running, unfinished or complete. The API gets no request, and a pull that is running is not
    disturbed.
    """
    click.echo(bulkpull.write_report(file, to, state=state))
