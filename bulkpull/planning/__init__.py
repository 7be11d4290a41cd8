"""Planning: divides a time range into windows of equal length, or of equal volume according to counts; splits them."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily
from bulkpull.planning.length import AUTO, Length
from bulkpull.planning.options import PlanOptions
from bulkpull.planning.plan import Plan, plan
from bulkpull.planning.range import is_relative, moment
from bulkpull.planning.size import SizeLimit, suggests_smaller_export

if TYPE_CHECKING:
    from bulkpull.planning.volume import (
        MILLISECOND,
        PROBE_TIMEOUT_S,
        CountUnavailable,
        count_window,
        looks_like_a_limit,
        midpoint,
        require_filter,
        split_window,
    )
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "volume": (
                "MILLISECOND",
                "PROBE_TIMEOUT_S",
                "CountUnavailable",
                "count_window",
                "looks_like_a_limit",
                "midpoint",
                "require_filter",
                "split_window",
            )
        },
    )

__all__ = [
    "AUTO",
    "MILLISECOND",
    "PROBE_TIMEOUT_S",
    "CountUnavailable",
    "Length",
    "Plan",
    "PlanOptions",
    "SizeLimit",
    "count_window",
    "is_relative",
    "looks_like_a_limit",
    "midpoint",
    "moment",
    "plan",
    "require_filter",
    "split_window",
    "suggests_smaller_export",
]
