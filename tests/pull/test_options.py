"""The options of a pull: the same names, defaults and checks in the library, on the command line and in the journal."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bulkpull
from bulkpull import PlanOptions, PullOptions, UsageError
from bulkpull.cli.observers import NAMES as MONITORING
from bulkpull.cli.plan import plan as plan_command
from bulkpull.cli.pull import pull as pull_command
from bulkpull.events import ignore
from bulkpull.options import Option, declared
from bulkpull.pull.memory import default_memory
from bulkpull.rows.format import Format
from bulkpull.sizes import size_text
from bulkpull.sync import TableOptions

REQUIRED: dict[str, Any] = {"start": "2024-01-01", "out": "a.csv"}
OF_THE_LIBRARY = {"resume", "on_event"}
OF_A_RUN = {"base_url", "requests_per_minute", "retry_for", "accept_short", "fresh", "as_json", "verbose", "quiet"}
NOT_PASSED_ON = {"config", "profile", "token_file", "token_command"}

OF_A_TABLE = {field.name for field, declaration in declared(TableOptions) if declaration.in_cli}

SOURCE = bulkpull.Clickwrap("t")


def parsed(*arguments: str, command: click.Command = pull_command) -> dict[str, Any]:
    """What the command line makes of its arguments, without those of the run and of tables."""
    values = command.make_context("bulkpull", list(arguments)).params
    return {name: value for name, value in values.items() if name not in OF_A_RUN | OF_A_TABLE}


@pytest.mark.parametrize("command", [pull_command, plan_command])
def test_the_command_line_has_the_options_of_the_library(command: click.Command) -> None:
    names = {field.name for field, _ in declared(PullOptions)}
    of_a_pull = OF_A_TABLE | MONITORING if command is pull_command else set()
    expected = names - OF_THE_LIBRARY | OF_A_RUN | NOT_PASSED_ON | of_a_pull
    assert {parameter.name for parameter in command.params} == expected
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in names - OF_THE_LIBRARY} <= flags


def test_the_command_line_has_the_defaults_of_the_library() -> None:
    options = PullOptions(**parsed("--start", "2024-01-01", "--out", "a.csv") | {"out": "a.csv"})
    assert options == PullOptions(**REQUIRED)
    assert (options.resume, options.on_event) == (True, ignore)


def test_the_command_line_passes_every_value_on() -> None:
    texts = {
        "start": ("2024-01-31", "2024-01-31"),
        "end": ("2024-02-01", "2024-02-01"),
        "filter": ("a==1", "a==1"),
        "window": ("1d", "1d"),
        "rows_per_export": ("5", 5),
        "max_windows": ("6", 6),
        "out": ("x.parquet", Path("x.parquet")),
        "format": ("parquet", "parquet"),
        "flat": (None, True),
        "all_strings": (None, True),
        "partition_by": ("month", "month"),
        "fields": ("a, b,", ["a", "b"]),
        "site": ("7", "7"),
        "exports": ("1", 1),
        "max_exports": ("2", 2),
        "downloads": ("3", 3),
        "spool": ("4MB", 4_000_000),
        "memory": ("1G", 1_000_000_000),
        "export_timeout": ("0.5", 0.5),
        "max_extra_exports": ("0", 0),
        "skip_failed": (None, True),
        "overwrite": (None, True),
        "state": ("x", Path("x")),
        "report": ("x.html", Path("x.html")),
        "conflicts": ("c.ndjson", Path("c.ndjson")),
        "cluster": ("local:2", "local:2"),
        "buckets": ("3", 3),
    }
    arguments = [
        part
        for name, (text, _) in texts.items()
        for part in (f"--{name.replace('_', '-')}", *([] if text is None else [text]))
    ]
    assert parsed(*arguments) == {name: value for name, (_, value) in texts.items()}


def test_what_has_no_default_is_required() -> None:
    required = {field.name for field, _ in declared(PullOptions) if field.default is MISSING}
    assert required == {"start", "out"}
    with pytest.raises(click.MissingParameter, match="start"):
        parsed("--out", "a.csv")
    with pytest.raises(UsageError, match="--out FILE, or --to URL"):  # either is enough
        pull_command.main(["--start", "2024-01-01"], standalone_mode=False)
    with pytest.raises(click.MissingParameter, match="start"):
        parsed(command=plan_command)
    assert parsed("--start", "2024-01-01", command=plan_command)["out"] is None


def bounded() -> list[tuple[str, Option]]:
    return [
        (field.name, declaration)
        for field, declaration in declared(PullOptions)
        if declaration.minimum is not None or declaration.above is not None
    ]


@pytest.mark.parametrize(("name", "declaration"), bounded())
@given(data=st.data())
def test_a_number_out_of_bounds_is_refused_by_library_and_command_line(
    name: str, declaration: Option, data: st.DataObject
) -> None:
    if declaration.minimum is not None:
        value: float = data.draw(st.integers(max_value=int(declaration.minimum) - 1))
    else:
        value = data.draw(st.floats(max_value=declaration.above) | st.just(float("nan")))
    with pytest.raises(UsageError, match=f"option {name} is .*: it must be"):
        PullOptions(**REQUIRED | {name: value})
    if value == value:
        with pytest.raises(click.BadParameter):
            parsed("--start", "2024-01-01", "--out", "a.csv", f"--{name.replace('_', '-')}={value}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "xlsx"}, "'xlsx': it must be one of csv, ndjson, parquet"),
        ({"partition_by": "day", "format": "parquet"}, "'day': it must be one of month"),
        ({"out": "a.xlsx"}, "not the extension of a format"),
        ({"export_timeout": "soon"}, "the option export_timeout: 'soon' is not a duration"),
        ({"export_timeout": "0s"}, "option export_timeout is 0.0: it must be greater than 0 seconds"),
        ({"spool": "many"}, "the option spool: 'many' is not a size"),
        ({"partition_by": "month"}, "works with Parquet only, not with csv"),
        ({"memory": 119_999_999}, "119,999,999 bytes of memory are too few: a pull to csv needs 120,000,000"),
        ({"fields": "event_type"}, "is a string, 'event_type': pass a list of names"),
        ({"fields": ["a,b"]}, "'a,b' is not a field name"),
        ({"fields": [""]}, "'' is not a field name"),
        ({"end": "2023-01-01"}, "before the start"),
        ({"buckets": 4}, "are for pulls on a cluster"),
        ({"partition_by": "bucket", "out": "activity"}, "are for pulls on a cluster"),
        ({"cluster": "local:2", "out": "activity", "buckets": 5000}, "5,000 buckets are too many"),
        ({"cluster": "local:2"}, "works with Parquet only, not with csv"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PullOptions(**REQUIRED | values)


def test_the_journal_records_the_options_that_identify_a_pull() -> None:
    with_fields = PullOptions(**REQUIRED, fields=["event_type", "id"], exports=3, memory=10**9, overwrite=True)
    assert with_fields.identity(SOURCE) == PlanOptions(start="2024-01-01").identity(SOURCE) | {
        "fields": "id,signer_id,created_time,event_type",
        "conflicts": "",
        "cluster": "",
    }
    assert PullOptions(**REQUIRED).identity(SOURCE)["fields"] == ""
    assert PullOptions(**REQUIRED, fields=[]).identity(SOURCE)["fields"] == ""


def test_the_keywords_of_options_make_the_same_options() -> None:
    def listener(_event: bulkpull.Event) -> None: ...

    options = PullOptions(**REQUIRED, fields=("a",), on_event=listener)
    assert PullOptions(**options.asdict()) == options
    assert options.asdict()["on_event"] is listener


def test_the_function_shows_the_options_as_its_keywords() -> None:
    source, *keywords = inspect.signature(bulkpull.pull).parameters.values()
    assert source.kind is inspect.Parameter.POSITIONAL_ONLY
    assert keywords == list(inspect.signature(PullOptions).parameters.values())
    assert {keyword.kind for keyword in keywords} == {inspect.Parameter.KEYWORD_ONLY}
    assert inspect.iscoroutinefunction(bulkpull.pull)
    for field, _ in declared(PullOptions):
        assert f"\n    {field.name}: " in (bulkpull.pull.__doc__ or "")
        assert f"\n    {field.name}: " in (PullOptions.__doc__ or "")
    assert "\nRaises:\n" in (bulkpull.pull.__doc__ or "")


def test_the_help_tells_the_default_memory() -> None:
    [declaration] = [declaration for field, declaration in declared(PullOptions) if field.name == "memory"]
    for format in (Format("csv"), Format("parquet")):
        assert size_text(default_memory(format)) in declaration.help


def test_each_help_text_is_at_most_two_lines_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(pull_command, ["--help"], terminal_width=80).output.partition("What:\n")[2]
    lines_of: dict[str, int] = {}
    for line in shown.splitlines():
        if line.startswith("  -"):
            flag = line.split()[0]
            lines_of[flag] = 0
        if line.startswith("  "):
            lines_of[flag] += 1
    generated = {f"--{field.name.replace('_', '-')}" for field, one in declared(PullOptions) if one.in_cli}
    assert generated <= lines_of.keys()
    assert {flag: count for flag, count in lines_of.items() if count > 2 and flag in generated} == {}


def test_texts_with_units_mean_the_same_as_numbers() -> None:
    options = PullOptions(**REQUIRED, spool="2GiB", memory="300MB", export_timeout="1h30m")
    assert (options.spool_bytes, options.memory_bytes, options.export_timeout_s) == (2 * 2**30, 300_000_000, 5400.0)
