"""A range into a table of DuckDB, batch by batch: more rows than memory holds.

$ python duckdb_table.py 2024-01-01 2024-02-01 activity.duckdb
"""

import asyncio
import sys

import duckdb

from bulkpull import Clickwrap, RowStream, stream


def load(rows: RowStream, path: str) -> None:
    with duckdb.connect(path) as database:
        database.execute("create or replace table activity as from rows")
        print(database.execute("select count(*), count(distinct id) from activity").fetchone())


async def main(start: str, end: str, path: str) -> None:
    async with (
        Clickwrap.from_env() as clickwrap,
        stream(clickwrap, start=start, end=end, fields=["event_type"]) as rows,
    ):
        await asyncio.to_thread(load, rows, path)  # DuckDB waits for rows, so not in the event loop


asyncio.run(main(*sys.argv[1:]))
