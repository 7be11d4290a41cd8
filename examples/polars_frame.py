"""A range as a Polars data frame, without a file.

$ python polars_frame.py 2024-01-01 2024-02-01
"""

import asyncio
import sys

import polars

from bulkpull import Clickwrap, table


async def main(start: str, end: str) -> None:
    async with Clickwrap.from_env() as clickwrap:
        frame = polars.DataFrame(await table(clickwrap, start=start, end=end, fields=["event_type"]))
    print(frame.group_by("event_type").len().sort("event_type").rows())


asyncio.run(main(*sys.argv[1:]))
