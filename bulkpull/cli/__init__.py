"""The command line: a thin shell over the public face, which decides nothing."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class

import bulkpull
from bulkpull.cli.activity import activity, fields
from bulkpull.cli.pull import plan, pull, status
from bulkpull.cli.running import EXIT_INTERRUPTED, Interrupted
from bulkpull.cli.streams import ReaderGone, forgiving_streams
from bulkpull.errors import AuthenticationError, BulkpullError, OutputError, UsageError

EXIT_DEFECT = 1
EXIT_USAGE = 2
EXIT_AUTHENTICATION = 3
EXIT_API = 4
EXIT_LOCAL = 5


class _Commands(click.Group):
    """The sandbox brings a web server, which would cost every other command a good part of its start."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), "sandbox"])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "sandbox":
            from bulkpull.cli.sandbox import sandbox

            return sandbox
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except OSError as error:  # click would take any broken pipe for standard output's, and say nothing
            raise OutputError(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(bulkpull.__version__, prog_name="bulkpull")
def cli() -> None:
    """Bulk download of Ironclad Clickwrap activity into one deduplicated file.

    \b
    The token comes from the environment, never from an argument:
      BULKPULL_TOKEN         the access token, or
      BULKPULL_TOKEN_FILE    the name of a file that holds it
      BULKPULL_BASE_URL      another API than the production one

    \b
    Exit codes:
      0    done
      1    a defect in bulkpull
      2    usage: an option, a date, a filter, or no token
      3    authentication: the token is wrong, or may not do this
      4    the API refused or failed, or a file could not be had
      5    local trouble: the disk, or the output exists
      6    done, but incomplete: windows brought less than was counted (--accept-short makes
           it 0), or could not be exported and were left out (--skip-failed)
      130  interrupted
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


for command in (pull, plan, status, fields, activity):
    cli.add_command(command)


def main() -> None:
    """Runs the command line and exits with one of the documented codes."""
    with forgiving_streams():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        code = int(cli(standalone_mode=False, prog_name="bulkpull") or 0)
        sys.stdout.flush()
        return code
    except ReaderGone:  # has all that it wanted
        return 0
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (Interrupted, click.Abort, KeyboardInterrupt) as interruption:
        return _fail(interruption, EXIT_INTERRUPTED)
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except AuthenticationError as error:
        return _fail(error, EXIT_AUTHENTICATION)
    except OutputError as error:
        return _fail(error, EXIT_LOCAL)
    except BulkpullError as error:
        return _fail(error, EXIT_API)
    except SystemExit as end:  # of the shells' completion
        return end.code if isinstance(end.code, int) else EXIT_DEFECT
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return _fail(f"a defect in bulkpull: {error!r}; python -X dev -m bulkpull shows where", EXIT_DEFECT)


def _fail(end: BaseException | str, code: int) -> int:
    click.echo(f"bulkpull: {str(end) or 'interrupted'}", err=True)
    for note in getattr(end, "__notes__", ()):
        click.echo(f"bulkpull: {note}", err=True)
    return code
