"""`bulkpull config`: show the effective values of options, and where they are from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import click
from click.core import ParameterSource

from bulkpull.cli.client import client_options
from bulkpull.cli.settings import Command, Setting, configuration, settings_of_all
from bulkpull.cli.tables import show, table
from bulkpull.cli.token import token_source

_MASK = "********"


class _Shown(NamedTuple):
    """An option as it is shown."""

    name: str
    value: str | None
    origin: str


@click.command(cls=Command)
@client_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def config(context: click.Context, /, as_json: bool, **_client: object) -> None:
    """Show the value of each option and where it is from.

    \b
    The first of these decides:
      1. the flag
      2. the environment: BULKPULL_EXPORTS for --exports
      3. the profile of the configuration file (--profile, BULKPULL_PROFILE)
      4. the configuration file
      5. the default

    \b
    The configuration file is the first of:
      --config FILE, or BULKPULL_CONFIG
      bulkpull.toml in the current directory
      pyproject.toml in the current directory, if it has [tool.bulkpull]
      ~/.config/bulkpull/config.toml, or in XDG_CONFIG_HOME

    A file in the last three places that another user owns or can write is an error.

    \b
    Example of a file:
      requests_per_minute = 1500
      retry_for = "1h"
      token_command = "pass show ironclad"
    \b
      [profiles.eu]
      base_url = "https://api.example.com/v1.1"
      token_file = "/run/secrets/ironclad-eu"
    """
    found = configuration(context)
    shown = list(_effective(context))
    if as_json:
        import orjson

        values = {one.name: {"value": one.value, "origin": one.origin} for one in shown}
        click.echo(orjson.dumps({"file": found.path and str(found.path), "profile": found.profile, "options": values}))
        return
    rows = table("option", "value", "origin")
    for one in shown:
        rows.add_row(one.name, "" if one.value is None else one.value, one.origin)
    show(rows)
    profiles = f"; profiles: {', '.join(found.profiles)}" if found.profiles else ""
    click.echo(f"file: {found.path or 'none'}{profiles}")


def _effective(context: click.Context) -> Iterator[_Shown]:
    """Yield the options of all commands, and the token."""
    own = {option.name: option for option in context.command.params if isinstance(option, Setting)}
    for setting in sorted(settings_of_all(context), key=lambda setting: setting.key):
        yield _effective_value(context, own.get(setting.name, setting))
    source = token_source(context)
    yield _Shown("token", None if source is None else _MASK, "not set" if source is None else source.origin)


def _effective_value(context: click.Context, setting: Setting) -> _Shown:
    configured = configuration(context).values.get(setting.key)
    if context.get_parameter_source(setting.name or "") is ParameterSource.COMMANDLINE:
        given = context.params.get(setting.name or "", context.meta.get(setting.name or ""))
        value, origin = str(given), max(setting.opts, key=len)
    elif variable := setting.resolve_envvar_value(context):
        value, origin = variable, str(setting.envvar)
    elif configured:
        value, origin = configured.text, configured.origin
    else:
        default = setting.get_default(context)
        return _Shown(setting.key, str(default) if isinstance(default, str | int | float) else None, "default")
    return _Shown(setting.key, _masked(setting.key, value), origin)


def _masked(key: str, value: str) -> str:
    """The value without what may be secret: arguments of the token command, credentials in a URL, a monitor's URL."""
    if key == "healthcheck":
        return _MASK
    if key == "token_command":
        program, _, arguments = value.strip().partition(" ")
        return f"{program} {_MASK}" if arguments else program
    return re.sub(r"//[^/@]*@", f"//{_MASK}@", value) if key == "base_url" else value
