"""From a range of time to windows: of equal length, or of equal volume, as counted; and how a window is cut."""

from bulkpull.planning.options import PlanOptions
from bulkpull.planning.plan import Plan, plan

__all__ = ["Plan", "PlanOptions", "plan"]
