"""A service that streams the rows of a range as NDJSON, while exports still run.

$ uvicorn examples.fastapi_ndjson:app
$ curl -N 'http://127.0.0.1:8000/rows?start=2024-01-01&end=2024-02-01'
"""

from collections.abc import AsyncIterator

import orjson
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from bulkpull import Clickwrap, rows

app = FastAPI()


async def lines(start: str, end: str) -> AsyncIterator[bytes]:
    async with Clickwrap.from_env() as clickwrap:
        async for row in rows(clickwrap, start=start, end=end, fields=["event_type"]):
            yield orjson.dumps(row) + b"\n"


@app.get("/rows")
async def activity(start: str, end: str) -> StreamingResponse:
    return StreamingResponse(lines(start, end), media_type="application/x-ndjson")
