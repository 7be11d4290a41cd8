"""What a pull has done, so that it is never done twice."""

from bulkpull.journal.journal import Journal
from bulkpull.journal.status import Status, status

__all__ = ["Journal", "Status", "status"]
