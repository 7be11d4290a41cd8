"""Pulls through a company's network: its own certificate authority, its proxy, a session of the user's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from yarl import URL

from bulkpull import Clickwrap, Result, RetryPolicy, UnavailableError, UsageError, pull
from bulkpull.sandbox import Sandbox, SandboxConfig
from tests.servers.running import installed
from tests.servers.tls import behind_tls, make_authority, trusting, tunnelling

pytestmark = pytest.mark.skipif(
    not installed("nginx"), reason="nginx is not installed; on Debian: apt-get install nginx"
)

CONFIG = SandboxConfig(rows=40_000, export_seconds=0.05, rows_per_file=100_000)  # one file of several megabytes
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def secure(authority: Path, config: SandboxConfig = CONFIG) -> AsyncIterator[tuple[Sandbox, str]]:
    """A sandbox behind TLS, and the URL of its API there. The token must not reach the file host."""
    async with Sandbox(config) as sandbox:
        with behind_tls(sandbox, authority) as url:
            yield sandbox, url
        assert sandbox.stats.leaks == 0


async def pulled(sandbox: Sandbox, url: str, out: Path, **options: Any) -> Result:
    async with Clickwrap(sandbox.token, base_url=url, **options) as clickwrap:
        result = await pull(
            clickwrap, start="2024-01-01", end="2026-01-01", out=out, window="2y", fields=["connection_data.user_agent"]
        )
    assert (result.rows, result.complete, result.retries) == (sandbox.config.rows, True, 0)
    return result


async def test_a_context_with_an_own_authority_serves_the_api_and_files(authority: Path, tmp_path: Path) -> None:
    async with secure(authority) as (sandbox, url):
        await pulled(sandbox, url, tmp_path / "activity.csv", ssl_context=trusting(authority))
        async with Clickwrap(sandbox.token, base_url=url) as unknowing:
            with pytest.raises(UnavailableError, match="certificate of localhost is not valid"):
                await unknowing.count()


async def test_a_session_brings_its_context(authority: Path, tmp_path: Path) -> None:
    async with secure(authority) as (sandbox, url):
        connector = aiohttp.TCPConnector(ssl=trusting(authority))
        async with aiohttp.ClientSession(connector=connector, headers={"X-Own": "1"}) as session:
            await pulled(sandbox, url, tmp_path / "activity.csv", session=session)


async def test_a_session_and_a_context_exclude_each_other(authority: Path) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(UsageError, match="connector"):
            Clickwrap("token", session=session, ssl_context=trusting(authority))


@pytest.mark.parametrize("owns_session", [False, True])
async def test_the_proxy_of_the_environment_serves_the_api_and_files(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owns_session: bool
) -> None:
    async with secure(authority) as (sandbox, url), tunnelling() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:pass@"))
        if owns_session:
            connector = aiohttp.TCPConnector(ssl=trusting(authority))
            async with aiohttp.ClientSession(connector=connector, trust_env=True) as session:
                await pulled(sandbox, url, tmp_path / "activity.csv", session=session)
        else:
            context = trusting(authority)
            await pulled(sandbox, url, tmp_path / "activity.csv", ssl_context=context, trust_env=True)
        assert proxy.targets == {f"localhost:{URL(origin).port}" for origin in (url, sandbox.files.url)}
        assert proxy.users == {"user:pass"}
        assert all(head.startswith("CONNECT") and sandbox.token not in head for head in proxy.asked)


@pytest.mark.parametrize(
    ("trust_env", "environment"),
    [(True, {"NO_PROXY": "localhost"}), (True, {"HTTPS_PROXY": ""}), (False, {})],
    ids=["excluded", "empty", "untrusted"],
)
async def test_no_proxy_where_none_is_wanted(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust_env: bool, environment: dict[str, str]
) -> None:
    async with secure(authority, SandboxConfig(rows=10, export_seconds=0.05)) as (sandbox, url), tunnelling() as proxy:
        for name, value in ({"HTTPS_PROXY": proxy.url} | environment).items():
            monkeypatch.setenv(name, value)
        context = trusting(authority)
        await pulled(sandbox, url, tmp_path / "activity.csv", ssl_context=context, trust_env=trust_env)
        assert proxy.asked == []


async def test_credentials_of_netrc_are_not_sent(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with secure(authority, SandboxConfig(rows=10, export_seconds=0.05)) as (sandbox, url):
        await pulled(sandbox, url, tmp_path / "activity.csv", ssl_context=trusting(authority), trust_env=True)


async def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnelling(refuses_with="407 Proxy Authentication Required") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        once = RetryPolicy(attempts=1)
        async with Clickwrap("token", base_url="https://localhost:1", trust_env=True, retry=once) as clickwrap:
            with pytest.raises(UnavailableError, match="the proxy answered 407") as refused:
                await clickwrap.start_export("")
        assert refused.value.undone  # no export was started


async def test_other_kinds_of_proxies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    async with Clickwrap("token", base_url="https://localhost:1", trust_env=True) as clickwrap:
        with pytest.raises(UsageError, match="socks5"):
            await clickwrap.count()


async def test_the_token_never_reaches_a_proxy_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox() as sandbox, tunnelling() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with Clickwrap(sandbox.token, base_url=sandbox.url, trust_env=True) as clickwrap:
            assert await clickwrap.count() == sandbox.config.rows
        async with aiohttp.ClientSession(trust_env=True) as session:
            with pytest.raises(UsageError, match=r"add 127\.0\.0\.1 to NO_PROXY"):
                async with Clickwrap(sandbox.token, base_url=sandbox.url, session=session):
                    pass
        assert proxy.asked == []


def test_uvloop_brings_the_same_bytes(authority: Path, tmp_path: Path) -> None:
    async def main(out: Path) -> bytes:
        async with secure(authority) as (sandbox, url):
            await pulled(sandbox, url, out, ssl_context=trusting(authority))
        return out.read_bytes()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(main(tmp_path / "uvloop.csv"))
    assert found == asyncio.run(main(tmp_path / "asyncio.csv"))
