"""Options that the environment and a configuration file may set too, and help that shows options in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from bulkpull.cli.config_file import Configuration, load
from bulkpull.options import GROUPS, WHAT

F = TypeVar("F", bound=Callable[..., Any])

# Keys of a context's meta.
CONFIG = "bulkpull.config"
PROFILE = "bulkpull.profile"
_LOADED = "bulkpull.configuration"


def configuration(context: click.Context) -> Configuration:
    """Return what the configuration file sets for a command; it is read once. Raises UsageError."""
    if _LOADED not in context.meta:
        meta = context.meta
        meta[_LOADED] = load(
            meta.get(CONFIG),
            meta.get(PROFILE),
            lambda: {setting.key: setting.is_flag for setting in settings_of_all(context)},
        )
    loaded = context.meta[_LOADED]
    assert isinstance(loaded, Configuration)
    return loaded


class Setting(click.Option):
    """An option with a group in the help, which may be set by a flag, the environment or a configuration file.

    Args:
        group: One of GROUPS.
        is_persistent: Whether the environment and configuration files may set it.
    """

    def __init__(self, *args: Any, group: str, is_persistent: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.is_persistent = is_persistent
        if is_persistent:
            self.envvar = f"BULKPULL_{self.key.upper()}"

    @property
    def key(self) -> str:
        """Its name in configuration files: that of the flag, with underscores."""
        return max(self.opts, key=len).lstrip("-").replace("-", "_")

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Return the value and where it is from; what a configuration file has comes before the default."""
        value, source = super().consume_value(ctx, opts)
        if self.is_persistent and source is ParameterSource.DEFAULT and not ctx.resilient_parsing:
            configured = configuration(ctx).values.get(self.key)
            if configured:
                return configured.text, ParameterSource.DEFAULT_MAP
        return value, source

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Process the value; an error says where it is from."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            origin = self.origin(ctx)
            if origin and not isinstance(error, click.MissingParameter):
                message = f"{error.message} (from {origin})"
                raise click.BadParameter(message, error.ctx, error.param, error.param_hint) from None
            raise

    def origin(self, ctx: click.Context) -> str:
        """Return where the value is from; empty for a flag or a default."""
        source = ctx.get_parameter_source(self.name or "")
        if source is ParameterSource.ENVIRONMENT:
            return str(self.envvar)
        if source is ParameterSource.DEFAULT_MAP:
            return configuration(ctx).values[self.key].origin
        return ""


class Command(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group; those without one come last."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        for group in (*GROUPS, ""):
            shown = [option for option in options if getattr(option, "group", "") == group]
            records = [record for option in shown if (record := option.get_help_record(ctx))]
            if records:
                with formatter.section(group or "Other options"):
                    formatter.write_dl(records)


def settings_of_all(context: click.Context) -> list[Setting]:
    """Return the options of all commands that the environment and configuration files may set, each name once."""
    root = context.find_root()
    commands = [context.command]
    if isinstance(root.command, click.Group):
        commands += filter(None, (root.command.get_command(root, name) for name in root.command.list_commands(root)))
    settings = [option for command in commands for option in command.params if isinstance(option, Setting)]
    return list({setting.key: setting for setting in settings if setting.is_persistent}.values())


def config_options(command: F) -> F:
    """Add `--config` and `--profile`, which are processed before all others."""
    for flag, metavar, variable, help in (
        ("--profile", "NAME", "BULKPULL_PROFILE", "Profile of the configuration file."),
        ("--config", "FILE", "BULKPULL_CONFIG", "Configuration file. Defaults to bulkpull.toml, if there is one."),
    ):
        command = click.option(
            flag,
            cls=Setting,
            group=WHAT,
            is_persistent=False,
            is_eager=True,
            expose_value=False,
            envvar=variable,
            metavar=metavar,
            callback=_remember,
            help=help,
        )(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[f"bulkpull.{parameter.name}"] = value
