"""The public functions that fill tables: apart from the others, so that a pull to a file does not import them."""

from __future__ import annotations

from bulkpull.options import with_keywords
from bulkpull.sync import LoadOptions, SyncOptions
from bulkpull.sync import load as _load
from bulkpull.sync import sync as _sync

load = with_keywords(LoadOptions)(_load)
sync = with_keywords(SyncOptions)(_sync)
