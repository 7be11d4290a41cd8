"""One pull, a file per stage: plan, launch, poll, fetch, merge; the journeys of all windows through them, and the
orchestrator that joins it all."""

from bulkpull.pull.completeness import CountMismatch
from bulkpull.pull.orchestrator import pull
from bulkpull.pull.plan import Plan, plan
from bulkpull.pull.result import Result
from bulkpull.pull.status import Status, status

__all__ = ["CountMismatch", "Plan", "Result", "Status", "plan", "pull", "status"]
