"""Clients that are configured by the environment, and the event loop they need."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from bulkpull import Clickwrap, UsageError
from bulkpull.clickwrap import BASE_URL
from bulkpull.sandbox import Sandbox, SandboxConfig

NAMES = ("BULKPULL_TOKEN", "BULKPULL_TOKEN_FILE", "BULKPULL_BASE_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


async def test_the_environment_has_token_and_base_url(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with Sandbox(SandboxConfig(token="from-the-environment")) as sandbox:
        environment.setenv("BULKPULL_BASE_URL", sandbox.url)
        (tmp_path / "token").write_text("from-the-environment\n")
        environment.setenv("BULKPULL_TOKEN_FILE", str(tmp_path / "token"))
        async with Clickwrap.from_env() as from_file:
            assert await from_file.count() == sandbox.config.rows
        environment.setenv("BULKPULL_TOKEN", "from-the-environment")
        environment.setenv("BULKPULL_TOKEN_FILE", str(tmp_path / "missing"))
        async with Clickwrap.from_env(requests_per_minute=5) as clickwrap:
            assert await clickwrap.count() == sandbox.config.rows
            assert clickwrap.requests_per_minute == 5


async def test_arguments_override_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BULKPULL_BASE_URL", "https://nowhere.example")
    environment.setenv("BULKPULL_TOKEN", "wrong")
    async with Sandbox() as sandbox, Clickwrap.from_env(token=sandbox.token, base_url=sandbox.url) as clickwrap:
        assert await clickwrap.count() == sandbox.config.rows


def test_the_base_url_defaults_to_the_production_api(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BULKPULL_TOKEN", "token")
    assert Clickwrap.from_env().base_url == BASE_URL
    environment.setenv("BULKPULL_BASE_URL", "")
    assert Clickwrap.from_env().base_url == BASE_URL


def test_a_missing_token_is_an_error(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="set BULKPULL_TOKEN"):
        Clickwrap.from_env()
    environment.setenv("BULKPULL_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="cannot be read"):
        Clickwrap.from_env()
    environment.setenv("BULKPULL_TOKEN", "")
    with pytest.raises(UsageError, match="the token is empty"):
        Clickwrap.from_env()


@pytest.mark.parametrize("opened", [lambda: Clickwrap("token"), Sandbox], ids=["client", "sandbox"])
def test_trio_is_refused(opened: Any) -> None:
    async def main(context: AbstractAsyncContextManager[object]) -> None:
        async with context:
            pass

    with pytest.raises(UsageError, match="needs asyncio"):
        trio.run(main, opened())
