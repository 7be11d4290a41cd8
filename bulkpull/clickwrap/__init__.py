"""The client of the Clickwrap API: routes, response models, filters, quota."""

from bulkpull.clickwrap.api import BASE_URL
from bulkpull.clickwrap.client import Clickwrap

__all__ = ["BASE_URL", "Clickwrap"]
