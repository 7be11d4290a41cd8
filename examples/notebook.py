"""A notebook cell with a progress bar: all but the last two lines, which make it a script.

In the next cell: result = await export(start="2024-01-01", end="2024-02-01", out="january.csv")
"""

import asyncio
import sys
from typing import Any

from tqdm.auto import tqdm

from bulkpull import Clickwrap, Event, Progress, Result, pull


async def export(**options: Any) -> Result:
    """Pull with a bar that counts rows; `options` are those of `bulkpull.pull`."""
    progress = Progress()
    with tqdm(unit=" rows", unit_scale=True) as bar:

        def show(event: Event) -> None:
            progress(event)
            bar.total = progress.rows_counted
            bar.set_postfix(exports=f"{progress.exports_done}/{progress.windows}", refresh=False)
            bar.update(progress.rows - bar.n)

        async with Clickwrap.from_env() as clickwrap:
            return await pull(clickwrap, **options, on_event=show)


if __name__ == "__main__":
    asyncio.run(export(start=sys.argv[1], end=sys.argv[2], out=sys.argv[3]))
