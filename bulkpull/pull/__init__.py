"""One pull, a file per stage: plan, launch, poll, fetch, merge; and the orchestrator that joins them."""

from bulkpull.pull.orchestrator import pull
from bulkpull.pull.plan import plan
from bulkpull.pull.result import Result

__all__ = ["Result", "plan", "pull"]
