"""The fixture in the test suites of users, whatever runs their coroutines."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.commands import program

pytest_plugins = ("pytester",)

ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function")
PLUGIN = "bulkpull.sandbox.pytest_plugin"
ROOT = Path(__file__).parents[2]

EXPORT = """
import bulkpull

async def export(out):
    async with bulkpull.Clickwrap.from_env() as clickwrap:
        return await bulkpull.pull(clickwrap, start="2024-01-01", end="2026-01-01", out=out)
"""
ASYNC_TEST = """
async def test_it(clickwrap_sandbox, tmp_path):
    clickwrap_sandbox.rows = [{"id": "a"}, {"event_type": "agreed"}]
    result = await export(tmp_path / "activity.csv")
    assert (result.rows, result.complete) == (2, True)
"""


def assert_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, test: str, *options: str) -> None:
    """Run a module with `test` and `export`, with the plugins that `options` name alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(EXPORT + test)
    main = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    warned = ("-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    result = pytester.run(*program("python"), "-c", main, "-p", PLUGIN, *warned, *options)
    result.assert_outcomes(passed=1)


def test_serves_a_test_that_blocks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    test = """
import asyncio, json, os, urllib.request

def test_it(clickwrap_sandbox, tmp_path):
    assert os.environ["BULKPULL_BASE_URL"] == clickwrap_sandbox.url
    clickwrap_sandbox.rows = [{"id": "a"}]
    asking = urllib.request.Request(clickwrap_sandbox.url + "/activity")
    asking.add_header("Authorization", f"Bearer {clickwrap_sandbox.token}")
    with urllib.request.urlopen(asking) as answer:
        assert [row["id"] for row in json.load(answer)["data"]] == ["a"]
    assert asyncio.run(export(tmp_path / "activity.csv")).rows == 1
    assert clickwrap_sandbox.stats.leaks == 0
"""
    assert_passes(pytester, monkeypatch, test)


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("import pytest\n\n@pytest.mark.asyncio", (*ASYNCIO, "-o", "asyncio_mode=strict")),
        ("", (*ASYNCIO, "-o", "asyncio_mode=auto")),
        ("import pytest\n\n@pytest.mark.asyncio(loop_scope='session')", ASYNCIO),
        ("import pytest\n\n@pytest.mark.anyio", ("-p", "anyio", "-k", "asyncio")),
    ],
    ids=["asyncio strict", "asyncio auto", "asyncio session loop", "anyio"],
)
def test_serves_coroutines(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mark: str, options: tuple[str, ...]
) -> None:
    assert_passes(pytester, monkeypatch, f"{mark}{ASYNC_TEST}", *options)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_fixture_of_the_users_may_enter_the_sandbox(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    test = f"""
import pytest_asyncio
from bulkpull.sandbox import Sandbox

@pytest_asyncio.fixture(loop_scope="{scope}", scope="{scope}")
async def sandbox():
    async with Sandbox(rows=[{{}}]) as running:
        yield running

async def test_it(sandbox):
    async with bulkpull.Clickwrap(sandbox.token, base_url=sandbox.url) as clickwrap:
        assert await clickwrap.count() == 1
"""
    options = ("-o", "asyncio_mode=auto", "-o", f"asyncio_default_test_loop_scope={scope}")
    assert_passes(pytester, monkeypatch, test, *ASYNCIO, *options)


def test_the_configuration_can_be_overridden(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    test = """
import asyncio
import pytest
from bulkpull.sandbox import SandboxConfig

@pytest.fixture
def clickwrap_sandbox_config():
    return SandboxConfig(rows=5, export_seconds=0.05, faults="cut-first", token="mine")

def test_it(clickwrap_sandbox, tmp_path):
    assert clickwrap_sandbox.token == "mine"
    assert asyncio.run(export(tmp_path / "activity.csv")).rows == 5
    assert clickwrap_sandbox.stats.faults
"""
    assert_passes(pytester, monkeypatch, test)


def test_runs_without_the_fixture_import_nothing_heavy() -> None:
    """Those of people who have the package installed, but do not use it in a test."""
    heavy = "{'aiohttp', 'anyio', 'asyncio', 'numpy', 'orjson', 'click', 'rich'}"
    code = (
        f"import pytest, sys; before = set(sys.modules); import {PLUGIN}; print((set(sys.modules) - before) & {heavy})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "set()\n"


def test_pytest_finds_the_plugin_by_the_packages_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"bulkpull": PLUGIN}
