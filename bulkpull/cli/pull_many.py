"""`bulkpull pull-many`: several pulls in one go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import bulkpull
from bulkpull.cli.exit_codes import EXIT_INCOMPLETE, exit_code, worst
from bulkpull.cli.next_step import resuming_command
from bulkpull.cli.observers import Observers, figures_of, observed
from bulkpull.cli.options import Size, run_options
from bulkpull.cli.running import Interrupted, run
from bulkpull.cli.settings import Command, Setting, config_options
from bulkpull.cli.streams import ReaderGone
from bulkpull.cli.tables import path_json, show
from bulkpull.options import HOW_FAST, TROUBLE, WHERE_TO

if TYPE_CHECKING:
    from bulkpull.cli.jobs_file import JobSettings
    from bulkpull.cli.many_progress import ManyProgress


@click.command(name="pull-many", cls=Command)
@click.argument("jobs_file", type=click.Path(path_type=Path), metavar="JOBS.toml")
@config_options
@click.option(
    "--overwrite",
    cls=Setting,
    group=WHERE_TO,
    is_persistent=False,
    is_flag=True,
    help="Pull all jobs, and replace their outputs if they exist.",
)
@click.option(
    "--jobs",
    cls=Setting,
    group=HOW_FAST,
    type=click.IntRange(1),
    default=4,
    show_default=True,
    metavar="N",
    help="Maximum concurrent jobs.",
)
@click.option(
    "--memory",
    cls=Setting,
    group=HOW_FAST,
    is_persistent=False,  # there, it is that of each job
    type=Size(),
    help="Target peak memory of all jobs together. Defaults to that of each job.",
)
@click.option(
    "--fail-fast",
    cls=Setting,
    group=TROUBLE,
    is_flag=True,
    help="Stop all jobs when one has failed.",
)
@run_options
@observed
def pull_many(
    jobs_file: Path,
    overwrite: bool,
    jobs: int,
    memory: int | None,
    fail_fast: bool,
    accept_short: bool,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    observers: Observers,
) -> int:
    """Pull several jobs, each with its own options, token, and output or table.

    JOBS.toml has a table for each job, with the options of `bulkpull pull`, and one with what they share. All jobs are
    checked before the first one starts. Jobs with the same token share its request budget. A job that fails does not
    stop the others.

    Rerun the same command to resume: jobs whose outputs are finished are not pulled again.

    \b
    Example of a file:
      [defaults]
      start = "2024-01-01"
      fields = ["event_type"]
    \b
      [jobs.site-a]
      out = "site-a.csv"
      filter = "site_id==1"
      token_file = "/run/secrets/a"
    \b
      [jobs.site-b]
      out = "site-b.parquet"
      token_env = "TOKEN_B"
    """
    from bulkpull.cli.jobs_file import read_jobs
    from bulkpull.cli.many_estimates import learning

    settings = read_jobs(jobs_file, click.get_current_context(), fresh=fresh)
    results: dict[str, bulkpull.JobResult] = {}

    async def work() -> None:
        async with AsyncExitStack() as stack:
            chosen = await _jobs(settings, stack, overwrite=overwrite)
            progress = stack.enter_context(_shown(settings, observers, verbose=verbose, quiet=quiet))
            _watch(observers, progress, settings, chosen)
            await stack.enter_async_context(observers.watching())
            begin = await stack.enter_async_context(learning(progress.figures, settings))
            metrics = observers.many_metrics

            def listener(name: str, event: bulkpull.Event) -> None:
                begin(name)
                progress(name, event)
                if metrics:
                    observers.attempt("metrics", partial(metrics, name, event))

            def ended(result: bulkpull.JobResult) -> None:
                results[result.name] = result
                progress.end(result)
                _log(observers, result)
                if metrics:
                    is_success = result.rows is not None and not _code(result, accept_short=accept_short)
                    observers.attempt(
                        "metrics",
                        partial(
                            metrics.end_job,
                            result.name,
                            result.state,
                            is_success=is_success,
                            was_finished=result.was_finished,
                        ),
                    )

            await bulkpull.pull_many(
                chosen, limit=jobs, memory=memory, fail_fast=fail_fast, on_event=listener, on_result=ended
            )

    try:
        run(work)
    except Interrupted as end:
        _conclude(settings, results, quiet=quiet, observers=observers)
        end.add_note(f"What was pulled so far is kept. Resume with: {resuming_command(pull_many.params)}")
        raise
    text = _conclude(settings, results, quiet=quiet, observers=observers)
    from bulkpull.cli.many_summary import failures

    failed = failures(results.values())
    observers.finished("\n".join([text, *failed]), {"jobs": len(results), "failed": len(failed)})
    if any(one.state in ("failed", "stopped") for one in results.values()) and not quiet:
        click.echo(f"Resume with: {resuming_command(pull_many.params)}", err=True)
    if as_json:
        import orjson

        with suppress(ReaderGone):  # the outputs are complete all the same
            click.echo(orjson.dumps(_json([results[one.name] for one in settings])))
    return worst(_code(result, accept_short=accept_short) for result in results.values())


def _watch(
    observers: Observers, progress: ManyProgress, settings: Sequence[JobSettings], jobs: Sequence[bulkpull.Job]
) -> None:
    """Let metrics know the jobs."""
    from bulkpull.cli.many_metrics import Watched

    if observers.many_metrics:
        observers.many_metrics.watch(
            {
                one.name: Watched(progress.figures[one.name], one.requests_per_minute, job.source)
                for one, job in zip(settings, jobs, strict=True)
            }
        )


async def _jobs(settings: Sequence[JobSettings], stack: AsyncExitStack, *, overwrite: bool) -> list[bulkpull.Job]:
    """The jobs, with one open client for each token. Raises UsageError."""
    from bulkpull.cli.token import TokenSource, read_token

    tokens: dict[TokenSource | None, str] = {}  # a command may ask for a password: once for all its jobs
    clients: dict[tuple[str, str], tuple[JobSettings, bulkpull.Clickwrap]] = {}
    jobs = []
    for one in settings:
        source = one.token and one.token._replace(origin="")
        try:
            if source not in tokens:
                tokens[source] = await read_token(one.token)
            client = bulkpull.Clickwrap(
                tokens[source],
                base_url=one.base_url,
                requests_per_minute=one.requests_per_minute,
                retry=bulkpull.RetryPolicy(seconds=one.retry_for),
            )
        except bulkpull.UsageError as error:
            raise bulkpull.UsageError(f"{one.origin}: {error}") from None
        first, client = clients.setdefault((client.base_url, tokens[source]), (one, client))
        for name in ("requests_per_minute", "retry_for"):
            if getattr(one, name) != getattr(first, name):
                raise bulkpull.UsageError(
                    f"{one.origin}: it shares a token, and so a client, with the job {first.name!r}, whose {name} is "
                    "another: give both the same, for example in [defaults]"
                )
        again = {"overwrite": True} if overwrite else {}
        jobs.append(bulkpull.Job(one.name, client, **one.options.asdict() | again))
    for _, client in clients.values():
        await stack.enter_async_context(client)
    return jobs


@contextmanager
def _shown(
    settings: Sequence[JobSettings], observers: Observers, *, verbose: bool, quiet: bool
) -> Iterator[ManyProgress]:
    """Show the progress of all jobs, unless `quiet`."""
    from bulkpull.cli.dates import range_text
    from bulkpull.cli.many_progress import ManyProgress, shown

    progress = ManyProgress([one.name for one in settings])
    observers.status = progress.sentence
    if quiet:
        yield progress
        return
    for one in settings:
        click.echo(f"{one.name}: {range_text(one.options)}, to {one.output}", err=True)
    with shown(progress, verbose=verbose):
        yield progress


def _log(observers: Observers, result: bulkpull.JobResult) -> None:
    fields: dict[str, Any] = {"job": result.name, "event": "job_ended", "state": result.state}
    if error := result.error:
        from bulkpull.cli.many_summary import error_text

        fields |= {"error": type(error).__name__}
        traceback = False if isinstance(error, bulkpull.BulkpullError) else error
        observers.log("error", f"{result.name}: failed: {error_text(error)}", fields, with_traceback=traceback)
        return
    fields |= figures_of(result.result) if result.result else {}
    observers.log("info", f"{result.name}: {result.state}", fields)


def _conclude(
    settings: Sequence[JobSettings],
    results: Mapping[str, bulkpull.JobResult],
    *,
    quiet: bool,
    observers: Observers,
) -> str:
    """Print what became of each job, or only the errors if `quiet`; return a sentence on all."""
    from bulkpull.cli.many_summary import counts, error_text, summary_table

    text = counts([*results.values()], len(settings) - len(results))
    if not quiet:
        show(summary_table({one.name: one.output for one in settings}, results), to_stderr=True)
        click.echo(text, err=True)
    elif not observers.log_is_on_stderr:  # which has the errors already, and stays JSON
        for result in results.values():
            if result.error is not None:
                click.echo(f"bulkpull: job {result.name!r}: {error_text(result.error)}", err=True)
    return text


def _code(result: bulkpull.JobResult, *, accept_short: bool) -> int:
    """The exit code that `bulkpull pull` would have had."""
    if result.error is not None:
        return exit_code(result.error)
    return EXIT_INCOMPLETE if result.skipped or (result.short and not accept_short) else 0


def _json(results: Sequence[bulkpull.JobResult]) -> dict[str, object]:
    from bulkpull.cli.many_summary import error_text
    from bulkpull.cli.pull import result_json

    jobs = {
        result.name: {
            "state": result.state,
            "output": path_json(result.output),
            "rows": result.rows,
            "was_finished": result.was_finished,
            "error": None if result.error is None else error_text(result.error),
            "result": None if result.result is None else result_json(result.result),
        }
        for result in results
    }
    return {"complete": all(result.complete for result in results), "jobs": jobs}
