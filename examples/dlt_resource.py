"""Activity as a dlt resource, incremental by `created_time`: each run pulls what is new since the last one.

$ python dlt_resource.py 2024-01-01 2024-03-01

A cursor misses activities that appear late. `lag` pulls the last day again; the merge by id drops what is known.
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

import dlt

from bulkpull import Clickwrap, stream

DAY_S = 86_400


@dlt.resource(name="activity", primary_key="id", write_disposition="merge")
async def activity(end: str, created: dlt.sources.incremental[Any]) -> AsyncIterator[list[dict[str, Any]]]:
    assert created.start_value
    async with (
        Clickwrap.from_env() as clickwrap,
        stream(clickwrap, start=created.start_value, end=end, fields=["event_type"]) as rows,
    ):
        async for batch in rows:
            yield batch.to_pylist()


def main(start: str, end: str) -> None:
    first = dlt.common.pendulum.parse(start)
    pipeline = dlt.pipeline("activity", destination="duckdb", dataset_name="legal")
    pipeline.run(activity(end, dlt.sources.incremental("created_time", initial_value=first, lag=DAY_S)))
    with pipeline.sql_client() as database:
        print(database.execute_sql("select count(*), count(distinct id) from activity"))


if __name__ == "__main__":
    main(*sys.argv[1:])
