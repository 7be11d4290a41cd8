"""Build the documentation site: stage the pages in build/docs, build them into build/site, check every link.

Pages stand in docs/, where they can be read without the site too. Staging adds the pages that stand elsewhere in the
repository, and replaces `<!-- generated: NAME -->` by what NAME generates from the code.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

import bulkpull
from bulkpull import sandbox
from bulkpull.cli import cli
from tools.check_links import check_links

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
# What stands outside of docs/, and where the site has it.
MOVED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/results/": "results/",
}


def main() -> int:
    """Build the site; return 1 if a page, a link or an anchor is wrong."""
    stage()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:  # noqa: S603
        return code
    pages, wrong = check_links(SITE)
    print(*wrong, f"{pages} pages, {len(wrong)} wrong links: {SITE / 'index.html'}", sep="\n")
    return 1 if wrong else 0


def stage() -> None:
    """Write all pages into build/docs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    shutil.copytree(ROOT / "benchmarks" / "results", PAGES / "results")
    for page in PAGES.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for source, staged in MOVED.items():
            text = text.replace(f"../{source}", staged)
        page.write_text(re.sub(r"<!-- generated: (\w+) -->", generated, text), encoding="utf-8")
    for source, staged in MOVED.items():
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            for other, moved in MOVED.items():
                text = text.replace(f"({other}", f"({moved}")
            (PAGES / staged).write_text(text.replace("(docs/", "("), encoding="utf-8")


def generated(marker: re.Match[str]) -> str:
    """Return what stands in place of `<!-- generated: NAME -->`."""
    return "\n".join(GENERATORS[marker[1]]())


def command_line() -> Iterator[str]:
    """Yield the reference of all commands, from what `--help` shows."""
    root = click.Context(cli, info_name="bulkpull")
    yield from _command(cli, root)
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        yield f"\n## bulkpull {name}\n"
        yield from _command(command, click.Context(command, info_name=name, parent=root))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from ("```text", " ".join([context.command_path, *command.collect_usage_pieces(context)]), "```\n")
    yield from _prose(command.help or "")
    if rows := [row for option in command.params if (row := _row(option, context))]:
        yield from ("\n| option | value | description |", "|---|---|---|", *rows, "")
    yield from _prose(command.epilog or "")


def _prose(help_text: str) -> Iterator[str]:
    r"""Yield the paragraphs of a help text; those behind `\b` keep their lines."""
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        if paragraph.startswith("\b"):
            yield from ("\n```text", paragraph.removeprefix("\b\n"), "```")
        elif paragraph:
            yield f"\n{_literal(paragraph)}"


def _row(option: click.Parameter, context: click.Context) -> str:
    """Return the row of an option; empty for an argument, and for an option that `--help` hides."""
    record = option.get_help_record(context)
    if record is None:
        return ""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if getattr(option, "is_flag", False) else f"`{option.make_metavar(context)}`"
    return f"| {names} | {value} | {_literal(record[1])} |"


def _literal(text: str) -> str:
    """Escape what Markdown would take for links, emphasis, cells or HTML, except in code."""
    prose_and_code = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(prose_and_code), 2):
        prose_and_code[index] = re.sub(r"[\[\]*|<]", lambda found: f"&#{ord(found[0])};", prose_and_code[index])
    return "".join(prose_and_code)


def python_api() -> Iterator[str]:
    """Yield all public names of `bulkpull` but its errors and events, which have pages of their own.

    They are named by where they are defined, since packages share the names of functions such as `pull`.
    """
    public = {name: getattr(bulkpull, name) for name in bulkpull.__all__}
    for heading, belongs in (("Functions", inspect.isroutine), ("Classes", _is_plain_class)):
        yield f"\n## {heading}\n"
        yield from (f"::: {value.__module__}.{name}" for name, value in public.items() if belongs(value))


def sandbox_api() -> Iterator[str]:
    """Yield all public names of `bulkpull.sandbox`."""
    yield from (f"::: bulkpull.sandbox.{name}" for name in sandbox.__all__)


def _is_plain_class(value: object) -> bool:
    return isinstance(value, type) and not issubclass(value, Exception | bulkpull.Event)


GENERATORS: dict[str, Callable[[], Iterator[str]]] = {"cli": command_line, "api": python_api, "sandbox": sandbox_api}

if __name__ == "__main__":
    sys.exit(main())
