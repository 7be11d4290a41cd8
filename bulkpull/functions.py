"""The public functions: they take the fields of their options as keywords."""

from __future__ import annotations

from bulkpull.options import with_keywords
from bulkpull.planning import PlanOptions
from bulkpull.planning import plan as _plan
from bulkpull.pull import PullOptions
from bulkpull.pull import pull as _pull

plan = with_keywords(PlanOptions)(_plan)
pull = with_keywords(PullOptions)(_pull)
