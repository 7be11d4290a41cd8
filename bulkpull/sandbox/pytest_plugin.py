"""The pytest plugin: a sandbox as a fixture. It imports what it needs when a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bulkpull.sandbox import Sandbox, SandboxConfig


@pytest.fixture
def clickwrap_sandbox_config() -> SandboxConfig:
    """The configuration of `clickwrap_sandbox`. Override it in a module or a `conftest.py`."""
    from bulkpull.sandbox import SandboxConfig

    return SandboxConfig(rows=1000, export_seconds=0.05, file_latency=0.0)


@pytest.fixture
def clickwrap_sandbox(clickwrap_sandbox_config: SandboxConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A local Clickwrap, to which `Clickwrap.from_env()` and the commands connect: see `bulkpull.sandbox.Sandbox`.

    It runs in a thread with an event loop of its own, so that it serves tests of any kind, also those that block.
    Set `clickwrap_sandbox.rows` to choose its activities.
    """
    from anyio.from_thread import start_blocking_portal

    from bulkpull.sandbox import Sandbox

    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(Sandbox(clickwrap_sandbox_config)) as sandbox,
    ):
        monkeypatch.setenv("BULKPULL_BASE_URL", sandbox.url)
        monkeypatch.setenv("BULKPULL_TOKEN", sandbox.token)
        yield sandbox
