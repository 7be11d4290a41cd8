"""One pull, a file per stage: launch, poll, collect, merge; the journeys of all windows through them, and the
orchestrator that joins it all."""

from bulkpull.pull.completeness import CountMismatch
from bulkpull.pull.options import PullOptions
from bulkpull.pull.orchestrator import pull
from bulkpull.pull.result import Result

__all__ = ["CountMismatch", "PullOptions", "Result", "pull"]
