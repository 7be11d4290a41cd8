"""How soon and how many: the next poll, adaptive limits, the launch queue, backpressure.

Nothing in here waits, sends or reads: what was seen comes in as numbers, times included, and what to do follows.
"""

from bulkpull.pacing.backpressure import Backpressure
from bulkpull.pacing.duration_model import DurationModel, Observation, fit
from bulkpull.pacing.launch_queue import LaunchQueue
from bulkpull.pacing.limits import DownloadLimit, ExportLimit, FixedLimit
from bulkpull.pacing.poll_schedule import JITTER, PendingExport, PollSchedule

__all__ = [
    "JITTER",
    "Backpressure",
    "DownloadLimit",
    "DurationModel",
    "ExportLimit",
    "FixedLimit",
    "LaunchQueue",
    "Observation",
    "PendingExport",
    "PollSchedule",
    "fit",
]
