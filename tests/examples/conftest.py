"""The fixture that users have by the package's entry point."""

from __future__ import annotations

from bulkpull.sandbox.pytest_plugin import clickwrap_sandbox, clickwrap_sandbox_config

__all__ = ["clickwrap_sandbox", "clickwrap_sandbox_config"]
