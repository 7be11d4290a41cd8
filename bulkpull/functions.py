"""The public functions: they take the fields of their options as keywords."""

from __future__ import annotations

from bulkpull.cluster import pull as _pull
from bulkpull.options import with_keywords
from bulkpull.planning import PlanOptions
from bulkpull.planning import plan as _plan
from bulkpull.pull import PullOptions, StreamOptions
from bulkpull.pull import rows as _rows
from bulkpull.pull import stream as _stream
from bulkpull.pull import table as _table

plan = with_keywords(PlanOptions)(_plan)
pull = with_keywords(PullOptions)(_pull)
rows = with_keywords(StreamOptions)(_rows)
stream = with_keywords(StreamOptions)(_stream)
table = with_keywords(StreamOptions)(_table)
