"""What the journal records of the results of tasks, as JSON."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson

from bulkpull.cluster.bucket import Bucket
from bulkpull.cluster.divide import Divided
from bulkpull.cluster.scatter import Scattered
from bulkpull.journal import Figures
from bulkpull.store import DataSetFile


def facts_of_part(found: Scattered) -> bytes:
    """Return what the journal records of a scattered part."""
    return orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)


def part_from(facts: bytes) -> Scattered:
    """Return a scattered part from what the journal recorded of it."""
    values = orjson.loads(facts)
    divided = values["divided"]
    return Scattered(
        **values
        | {
            "divided": Divided(
                **divided
                | {
                    "columns": tuple(divided["columns"]),
                    "sizes": np.array(divided["sizes"], np.uint64),
                    "ids": np.array(divided["ids"], np.uint64),
                }
            )
        }
    )


def facts_of_bucket(found: Bucket) -> bytes:
    """Return what the journal records of a merged bucket, except for its conflicts."""
    return orjson.dumps(replace(found, conflicts=None), option=orjson.OPT_NON_STR_KEYS)


def bucket_from(facts: bytes) -> Bucket:
    """Return a merged bucket from what the journal recorded of it."""
    values = orjson.loads(facts)
    return replace(
        Bucket(**values),
        files=tuple(DataSetFile(**file) for file in values["files"]),
        figures={int(window): Figures(**figures) for window, figures in values["figures"].items()},
        filled=tuple(values["filled"]),
    )
