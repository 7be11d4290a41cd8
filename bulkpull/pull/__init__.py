"""One pull: the journeys of all windows from launch to merge, and the orchestrator that joins them.

A stage is a file: export, collect, merge. What a window delivered is doubted, and reconciled, before its rows stay.
"""

from bulkpull.pull.completeness import CountMismatch
from bulkpull.pull.extra import default_extra
from bulkpull.pull.options import PullOptions, check_names
from bulkpull.pull.orchestrator import pull
from bulkpull.pull.result import Result

__all__ = ["CountMismatch", "PullOptions", "Result", "check_names", "default_extra", "pull"]
