"""A local Clickwrap server for experiments and tests, with the API, a separate file host and a rate limit."""

from bulkpull.sandbox.config import SandboxConfig, SandboxStats
from bulkpull.sandbox.server import Sandbox

__all__ = ["Sandbox", "SandboxConfig", "SandboxStats"]
