"""The remote API, and nothing of ours: routes, models, filters, quota."""

from bulkpull.clickwrap.client import BASE_URL, Clickwrap

__all__ = ["BASE_URL", "Clickwrap"]
