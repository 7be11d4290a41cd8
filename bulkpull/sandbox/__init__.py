"""A local Clickwrap, to try things on: its API, its files on another origin, its limits. Nothing leaves loopback."""

from bulkpull.sandbox.config import SandboxConfig, Seen
from bulkpull.sandbox.server import Sandbox

__all__ = ["Sandbox", "SandboxConfig", "Seen"]
