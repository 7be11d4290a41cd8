"""A local Clickwrap server for experiments and tests, with the API, a separate file host and a rate limit."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.sandbox.config import SandboxConfig, SandboxStats
    from bulkpull.sandbox.history import History
    from bulkpull.sandbox.server import Sandbox
else:
    __getattr__, __dir__ = lazily(
        __name__, {"config": ("SandboxConfig", "SandboxStats"), "history": ("History",), "server": ("Sandbox",)}
    )

__all__ = ["History", "Sandbox", "SandboxConfig", "SandboxStats"]
