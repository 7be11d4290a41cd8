"""Every command and every Python block of the documentation runs, against a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from bulkpull.sandbox.process import sandbox_process
from tests.docs.examples import PAGES, ROOT, blocks, run_page

RUN = [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[list[str]]]]:
    """What went wrong on each page. Pages run side by side, since most of them wait for exports."""
    with (
        sandbox_process("--rows", "3000", "--export-seconds", "0.1", "--rows-per-file", "1000") as sandbox,
        ThreadPoolExecutor(3) as threads,
    ):
        directories = {page: tmp_path_factory.mktemp(page.stem) / "page" for page in RUN}
        for directory in directories.values():
            directory.mkdir()
        yield {page: threads.submit(run_page, page, directories[page], sandbox) for page in RUN}


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, outcomes: dict[Path, Future[list[str]]]) -> None:
    assert outcomes[page].result() == []


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert not block.mark.startswith("not run") or len(block.mark) > len("not run: 12345"), (page, block.line)


def test_the_readme_fits_on_a_screen_and_runs() -> None:
    readme = ROOT / "README.md"
    assert readme in RUN
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 70
