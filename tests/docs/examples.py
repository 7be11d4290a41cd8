"""The code blocks of the documentation, read from its pages and run as a reader would run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkpull.sandbox.process import SandboxProcess
from tests.commands import program

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SECONDS = 300.0  # that a block may take, on a busy machine
_RUN = ("console", "bash", "sh", "python")
_FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*?) -->\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block.

    An HTML comment before it may say otherwise than to run it: `not run: REASON`; `file: NAME` writes it to a file that
    later blocks use; `exits with CODE` for a code other than 0.
    """

    line: int
    language: str
    text: str
    mark: str

    @property
    def is_run(self) -> bool:
        """Whether the block is to be run."""
        return not self.mark.startswith(("not run: ", "file: "))

    @property
    def code(self) -> int:
        """The exit code that the block ends with."""
        return int(self.mark.removeprefix("exits with ")) if self.mark.startswith("exits with ") else 0

    def script(self) -> tuple[str, list[str]]:
        """The commands of the block, and the lines that it shows as their output."""
        if self.language != "console":
            return self.text, []
        commands, shown = [], []
        in_command = False
        for line in self.text.splitlines():
            in_command = in_command or line.startswith("$ ")
            if in_command:
                commands.append(line.removeprefix("$ "))
                in_command = line.endswith("\\")
            else:
                shown.append(line)
        return "\n".join(commands), shown


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page that are commands or Python."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        if found["language"] in _RUN:
            line = text.count("\n", 0, found.start("text")) + 1
            yield Block(line, found["language"], found["text"], found["mark"] or "")


def run_page(page: Path, directory: Path, sandbox: SandboxProcess) -> list[str]:
    """Run the blocks of a page one after the other in `directory`; return what went otherwise than the page says."""
    wrong = []
    for block in blocks(page):
        if block.mark.startswith("file: "):
            (directory / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.is_run and (reason := _run(block, directory, sandbox)):
            wrong.append(f"{page.relative_to(ROOT)}:{block.line}: {reason}")
    return wrong


def _run(block: Block, directory: Path, sandbox: SandboxProcess) -> str:
    """Run a block; return what is wrong with it, or nothing."""
    script, shown = block.script()
    if "Clickwrap(" in script and "base_url=" not in script:
        return "asks the production API"
    words = program("python") if block.language == "python" else ["bash", "-euo", "pipefail"]
    environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
    environment |= {"PATH": f"{_programs(directory)}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: S603
        [*words, "-c", script],
        cwd=directory,
        env=environment,
        input=f"{sandbox.token}\n",  # where a block reads the token from the terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != block.code:
        return f"ended with {done.returncode}, not {block.code}: {done.stdout}"
    return "" if is_shown(shown, done.stdout) else f"does not show {shown}, but: {done.stdout}"


def is_shown(shown: list[str], output: str) -> bool:
    """Whether the lines of the page are in the output, in this order; `...` stands for any text within a line."""
    lines = iter(output.splitlines())
    patterns = [".*".join(map(re.escape, line.split("..."))) for line in shown]
    return all(any(re.fullmatch(pattern, line.rstrip()) for line in lines) for pattern in patterns)


def _programs(directory: Path) -> Path:
    """A directory with `bulkpull` and `python`, as the tests run them."""
    programs = directory.parent / "programs"
    if not programs.exists():
        programs.mkdir()
        python = [sys.executable]
        for name, words in (("bulkpull", program()), ("python", python), ("python3", python)):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
    return programs
