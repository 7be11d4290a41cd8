"""Activity as a dlt resource, incremental by `created_time`: each run pulls what is new since the last one.

$ python dlt_resource.py 2024-01-01 2024-03-01

A cursor misses activities that appear late. `lag` pulls the last day again; the merge by id drops what is known.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import dlt
import pyarrow

from bulkpull import Clickwrap, table

DAY_S = 86_400


@dlt.resource(name="activity", primary_key="id", write_disposition="merge")
def activity(created: dlt.sources.incremental[Any]) -> Iterator[Any]:
    async def pulled() -> Any:
        async with Clickwrap.from_env() as clickwrap:
            return await table(clickwrap, start=created.start_value, end=created.end_value, fields=["event_type"])

    yield pyarrow.table(asyncio.run(pulled()))


def main(start: str, end: str) -> None:
    first, last = (dlt.common.pendulum.parse(day) for day in (start, end))
    created = dlt.sources.incremental("created_time", initial_value=first, end_value=last, lag=DAY_S)
    pipeline = dlt.pipeline("activity", destination="duckdb", dataset_name="legal")
    pipeline.run(activity(created))
    print(len(pipeline.dataset().activity.df()), "rows")


if __name__ == "__main__":
    main(*sys.argv[1:])
