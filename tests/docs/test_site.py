"""What builds the site: the generated reference, and the check of links."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

import bulkpull
from bulkpull.cli import cli
from tests.docs.examples import Block, is_shown
from tools.build_docs import command_line, python_api
from tools.check_links import check_links


def test_the_reference_has_every_option_of_every_command() -> None:
    _, *sections = "\n".join(command_line()).split("\n## bulkpull ")
    found = {section.partition("\n")[0]: section for section in sections}
    context = click.Context(cli)
    assert list(found) == cli.list_commands(context)
    for name, section in found.items():
        command = cli.get_command(context, name)
        assert command is not None
        for option in command.params:
            if getattr(option, "hidden", False):
                continue
            assert all(f"`{spelling}`" in section for spelling in option.opts), (name, option.opts)


def test_the_reference_has_every_public_name() -> None:
    found = {line.rpartition(".")[2] for line in python_api() if line.startswith("::: bulkpull.")}
    elsewhere = {name for name in bulkpull.__all__ if name.endswith("Error")} | {"Event", "errors", "events"}
    assert found == set(bulkpull.__all__) - elsewhere


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ('<a href="other.html#there">', ""),
        ('<a href="#here">', ""),
        ('<a href="https://example.com/any">', ""),
        ('<a href="mailto:someone@example.com">', ""),
        ('<a href="missing.html">', "does not exist"),
        ('<a href="other.html#missing">', "has no such anchor"),
        ('<a href="#missing">', "has no such anchor"),
        ('<a href="https:///any">', "has no host"),
        ('<a href="htps://example.com">', "has an unknown scheme"),
        ('<img src="missing.svg">', "does not exist"),
        ('<script src="https://example.com/script.js">', "is loaded from another host"),
        ('<link rel="stylesheet" href="https://example.com/style.css">', "is loaded from another host"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, html: str, reason: str) -> None:
    (tmp_path / "index.html").write_text(f'<h1 id="here">{html}', encoding="utf-8")
    (tmp_path / "other.html").write_text('<h1 id="there">', encoding="utf-8")
    pages, wrong = check_links(tmp_path)
    assert pages == 2
    assert len(wrong) == bool(reason)
    assert not reason or wrong[0].endswith(reason)


def test_a_block_of_commands_is_told_from_its_output() -> None:
    block = Block(1, "console", "$ one \\\n    two\nshown\n$ three\n", "")
    assert block.script() == ("one \\\n    two\nthree", ["shown"])


@pytest.mark.parametrize(
    ("shown", "is_there"),
    [
        ([], True),
        (["b"], True),
        (["a", "c"], True),
        (["c", "a"], False),
        (["x"], False),
        (["a...b"], False),
        (["b..."], True),
    ],
)
def test_output_that_a_page_shows_must_appear_in_its_order(shown: list[str], is_there: bool) -> None:
    assert is_shown(shown, "a\nb\nc\n") is is_there
