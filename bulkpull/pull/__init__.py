"""One pull, a file per stage: plan, launch, poll, fetch, merge; the journeys of all windows through them, and the
orchestrator that joins it all."""

from bulkpull.pull.orchestrator import pull
from bulkpull.pull.plan import Plan, plan
from bulkpull.pull.result import Result, Shortfall
from bulkpull.pull.status import Status, status

__all__ = ["Plan", "Result", "Shortfall", "Status", "plan", "pull", "status"]
