"""One pull, a file per stage: plan, launch, poll, fetch, merge; and the orchestrator that joins them."""

from bulkpull.pull.orchestrator import pull
from bulkpull.pull.plan import plan
from bulkpull.pull.result import Result
from bulkpull.pull.status import Status, status

__all__ = ["Result", "Status", "plan", "pull", "status"]
