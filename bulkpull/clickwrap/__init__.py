"""The remote API, and nothing of ours: routes, models, filters, quota, retry."""

from bulkpull.clickwrap.client import BASE_URL, Clickwrap
from bulkpull.clickwrap.download import Download, LinkExpiredError, NotReadyError, RangeRefusedError
from bulkpull.clickwrap.encoding import DamagedBodyError
from bulkpull.clickwrap.models import ContradictedCountError, Export
from bulkpull.clickwrap.retry import RetryPolicy, TransientError

__all__ = [
    "BASE_URL",
    "Clickwrap",
    "ContradictedCountError",
    "DamagedBodyError",
    "Download",
    "Export",
    "LinkExpiredError",
    "NotReadyError",
    "RangeRefusedError",
    "RetryPolicy",
    "TransientError",
]
