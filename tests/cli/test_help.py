"""Help fits into 80 columns, in groups, and shows what a command uses."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from bulkpull import PullOptions
from bulkpull.cli import cli
from bulkpull.options import GROUPS, declared

COMMANDS = cli.list_commands(click.Context(cli))


def shown(*command: str) -> str:
    return CliRunner().invoke(cli, [*command, "--help"], terminal_width=80).output


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_into_80_columns(command: list[str]) -> None:
    assert [line for line in shown(*command).splitlines() if len(line) > 80] == []


def test_each_option_is_in_a_group() -> None:
    assert {one.group for _, one in declared(PullOptions) if one.in_cli} <= set(GROUPS)
    for name in ("pull", "plan", "sync", "status", "list", "report"):
        help = shown(name)
        headings = re.findall(r"^(\S.*):$", help, re.MULTILINE)
        assert headings == [group for group in (*GROUPS, "Other options") if group in headings]
        assert re.findall(r"--[\w-]+", help.partition("Other options:\n")[2]) == ["--help"]


def test_the_help_of_plan_shows_what_plan_uses() -> None:
    flags = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown("plan"), re.MULTILINE))
    assert {"--start", "--window", "--exports", "--max-extra-exports", "--base-url", "--json"} <= flags
    assert flags.isdisjoint({"--out", "--format", "--overwrite", "--memory", "--fresh", "--quiet", "--skip-failed"})
    assert "Where to:" not in shown("plan")
