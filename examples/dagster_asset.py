"""A Dagster asset with a partition for each month. A retry of a run resumes its pull.

$ dagster dev -f examples/dagster_asset.py
"""

import asyncio
import os
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    Definitions,
    Failure,
    MaterializeResult,
    MonthlyPartitionsDefinition,
    RetryPolicy,
    asset,
)

from bulkpull import Clickwrap, Result, pull

OUTPUTS = Path(os.environ.get("ACTIVITY_DIRECTORY", "activity"))


@asset(
    partitions_def=MonthlyPartitionsDefinition(start_date="2024-01-01"),
    retry_policy=RetryPolicy(max_retries=3, delay=600),  # seconds
)
def activity(context: AssetExecutionContext) -> MaterializeResult:
    """The activity of a month, each id once."""
    month = context.partition_time_window
    out = OUTPUTS / f"{month.start:%Y-%m}.csv"

    async def export() -> Result:
        async with Clickwrap.from_env() as clickwrap:
            return await pull(clickwrap, start=month.start, end=month.end, out=out, overwrite=True)

    OUTPUTS.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(export())
    if not result.complete:
        raise Failure(f"windows that may lack rows: {[*result.short, *result.skipped]}", allow_retries=False)
    return MaterializeResult(metadata={"rows": result.rows, "duplicates": result.duplicates, "path": str(out)})


definitions = Definitions(assets=[activity])
