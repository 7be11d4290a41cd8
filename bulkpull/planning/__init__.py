"""Planning: divides a time range into windows of equal length, or of equal volume according to counts."""

from bulkpull.planning.options import PlanOptions
from bulkpull.planning.plan import Plan, plan

__all__ = ["Plan", "PlanOptions", "plan"]
