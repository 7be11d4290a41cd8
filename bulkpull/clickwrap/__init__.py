"""The remote API, and nothing of ours: routes, models, filters, quota."""

from bulkpull.clickwrap.client import BASE_URL, Clickwrap
from bulkpull.clickwrap.models import ContradictedCountError, Export

__all__ = ["BASE_URL", "Clickwrap", "ContradictedCountError", "Export"]
