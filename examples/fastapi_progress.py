"""A service that pulls a range, and streams the progress as server-sent events.

$ uvicorn examples.fastapi_progress:app
$ curl -N 'http://127.0.0.1:8000/activity?start=2024-01-01&end=2024-02-01'

The pull ends with the request: it is cancelled when the client goes away, and the same request resumes it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import date

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from bulkpull import BulkpullError, Clickwrap, Progress, pull

INTERVAL_S = 0.5


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Clickwrap.from_env() as app.state.clickwrap:  # one client, since the rate limit belongs to the token
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/activity")
async def activity(request: Request, start: date, end: date) -> StreamingResponse:
    return StreamingResponse(followed(request, start, end), media_type="text/event-stream")


async def followed(request: Request, start: date, end: date) -> AsyncIterator[str]:
    """Pull the range; yield the progress, and at the end the result or the error."""
    progress = Progress()
    out = f"activity-{start}-{end}.csv"
    task = asyncio.create_task(pull(request.app.state.clickwrap, start=start, end=end, out=out, on_event=progress))
    try:
        while not task.done() and not await request.is_disconnected():
            yield message("progress", asdict(progress.snapshot()))
            await asyncio.wait({task}, timeout=INTERVAL_S)
        if task.done():
            result = task.result()
            yield message("done", {"rows": result.rows, "complete": result.complete, "output": out})
    except BulkpullError as error:
        yield message("failed", {"reason": str(error)})
    finally:
        task.cancel()
        with anyio.CancelScope(shield=True):  # the request may be cancelled too
            await asyncio.wait({task})


def message(event: str, data: dict[str, object]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
