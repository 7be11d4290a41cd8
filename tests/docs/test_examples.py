"""Every command and every Python block of the documentation runs, against a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkpull.sandbox.process import SandboxProcess
from tests.commands import sandbox_process
from tests.docs.examples import PAGES, ROOT, blocks, run_page

RUN = [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "3000", "--export-seconds", "0.1", "--rows-per-file", "1000") as running:
        yield running


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, sandbox: SandboxProcess, tmp_path: Path) -> None:
    directory = tmp_path / "page"
    directory.mkdir()
    assert run_page(page, directory, sandbox) == []


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert not block.mark.startswith("not run") or len(block.mark) > len("not run: 12345"), (page, block.line)


def test_the_readme_fits_on_a_screen_and_runs() -> None:
    readme = ROOT / "README.md"
    assert readme in RUN
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 70
