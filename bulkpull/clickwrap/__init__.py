"""The client of the Clickwrap API: routes, response models, filters, quota."""

from bulkpull.clickwrap.client import BASE_URL, Clickwrap

__all__ = ["BASE_URL", "Clickwrap"]
