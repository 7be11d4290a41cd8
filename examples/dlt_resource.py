"""Activity as a dlt resource, incremental by `created_time`: each run pulls what is new since the last one.

$ python dlt_resource.py 2024-01-01 2024-03-01

A cursor misses activities that appear late. `LAG_S` pulls the last day again, and the merge by id drops what is known.
"""

import asyncio
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dlt
import pyarrow

from bulkpull import Clickwrap, table

LAG_S = 86_400


@dlt.resource(name="activity", primary_key="id", write_disposition="merge")
def activity(
    end: datetime, created: dlt.sources.incremental[datetime] = dlt.sources.incremental("created_time", lag=LAG_S)
) -> Iterator[Any]:
    async def pulled() -> Any:
        async with Clickwrap.from_env() as clickwrap:
            return await table(clickwrap, start=created.last_value, end=end, fields=["event_type"])

    yield pyarrow.table(asyncio.run(pulled()))


def main(start: str, end: str) -> None:
    first = dlt.sources.incremental("created_time", initial_value=datetime.fromisoformat(f"{start}T00:00:00Z"), lag=LAG_S)
    pipeline = dlt.pipeline("activity", destination="duckdb", dataset_name="legal")
    pipeline.run(activity(datetime.fromisoformat(f"{end}T00:00:00Z"), first))
    print(pipeline.dataset().activity.df())


if __name__ == "__main__":
    main(*sys.argv[1:])
