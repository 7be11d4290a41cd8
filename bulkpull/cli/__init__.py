"""The command line: a thin layer over the public functions."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from importlib.util import find_spec

import click
from click.shell_completion import get_completion_class

import bulkpull
from bulkpull.cli.exit_codes import EXIT_BUG, EXIT_READER_GONE, EXIT_USAGE, exit_code
from bulkpull.cli.running import EXIT_INTERRUPTED, Interrupted
from bulkpull.cli.streams import ReaderGone, forgiving_streams
from bulkpull.errors import BulkpullError, OutputError, ReaderGoneError
from bulkpull.suggestions import did_you_mean

SCANNER = "compiled" if find_spec("bulkpull.rows._kernel") else "NumPy"

_MODULES = {  # of the commands
    "activity": "activity",
    "config": "config",
    "fields": "activity",
    "list": "unfinished",
    "plan": "plan",
    "pull": "pull",
    "pull-many": "pull_many",
    "report": "report",
    "sandbox": "sandbox",
    "status": "status",
    "sync": "sync",
    "verify": "verify",
}


class _Commands(click.Group):
    """Imports a command when it is asked for. What a command works with, it imports when it runs: help and completion
    must not wait for that."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_MODULES])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return super().get_command(context, name)
        command = getattr(import_module(f"bulkpull.cli.{_MODULES[name]}"), name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            hint = did_you_mean(name, self.list_commands(ctx))
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except OSError as error:  # click takes every broken pipe for that of standard output, and is silent
            raise OutputError(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(bulkpull.__version__, prog_name="bulkpull", message=f"%(prog)s %(version)s (scanner: {SCANNER})")
def cli() -> None:
    """Bulk download of Ironclad Clickwrap activity into one deduplicated file.

    \b
    The token is never an argument. It is read from the first of these:
      BULKPULL_TOKEN          the access token
      BULKPULL_TOKEN_FILE     the path of a file that contains it
      BULKPULL_TOKEN_COMMAND  a command that prints it

    Options can also be set by the environment (BULKPULL_EXPORTS for --exports)
    and by a configuration file, bulkpull.toml: see `bulkpull config --help`.

    \b
    Exit codes:
      0    success
      1    a bug in bulkpull
      2    usage error: an option, a date, the filter, or a missing token
      3    authentication error: the token is invalid or lacks permission
      4    the API refused or failed, or a file could not be downloaded
      5    local error: the disk failed, or the output exists
      6    incomplete: windows have fewer rows than counted (0 with
           --accept-short), or were skipped because they could not be exported
           (--skip-failed); verify: it differs; sync: windows are missing,
           which the next run exports again
      7    sync: more rows would go than --max-shrink allows; nothing was changed
      130  interrupted
      141  the reader of the output, a pipe, exited before the end

    pull-many exits with the code of the job that fared worst: the first of 1, 2,
    3, 5, 4, 141 and 6.
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    For bash, in ~/.bashrc:  eval "$(bulkpull completion bash)"
    """
    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(cli, {}, "bulkpull", "_BULKPULL_COMPLETE").source())


def main() -> None:
    """Run the command line and exit with one of the documented codes."""
    # The threads of NumPy's OpenBLAS, one for each core, would spin at the start; nothing here uses linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(150_000)  # imports create many objects and no garbage: 5 % of the start
    with forgiving_streams():
        code = _run()
    gc.freeze()  # at exit the interpreter would look for garbage among all objects: 0.1 s after a pull
    sys.exit(code)


def _run() -> int:
    try:
        code = int(cli(standalone_mode=False, prog_name="bulkpull") or 0)
        sys.stdout.flush()
        return code
    except ReaderGone:  # it has read enough
        return 0
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (Interrupted, click.Abort, KeyboardInterrupt) as interruption:
        return _fail(interruption, EXIT_INTERRUPTED)
    except ReaderGoneError:  # usually on purpose, as with head(1)
        return EXIT_READER_GONE
    except BulkpullError as error:
        return _fail(error, exit_code(error))
    except SystemExit as end:  # from shell completion
        return end.code if isinstance(end.code, int) else EXIT_BUG
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        if getattr(error, "is_told", False):
            return EXIT_BUG
        return _fail(f"a bug in bulkpull: {error!r}. For a traceback, run: python -X dev -m bulkpull", EXIT_BUG)


def _fail(end: BaseException | str, code: int) -> int:
    if getattr(end, "is_told", False):
        return code
    click.echo(f"bulkpull: {str(end) or 'interrupted'}", err=True)
    for note in getattr(end, "__notes__", ()):
        click.echo(f"bulkpull: {note}", err=True)
    return code
