"""A session of one's own: a private certificate authority, a limit of connections, headers, and a company's proxy."""

import asyncio
import os
import ssl

import aiohttp

from bulkpull import Clickwrap, pull


async def main() -> None:
    # Without COMPANY_CA, the certificate authorities of the system.
    context = ssl.create_default_context(cafile=os.environ.get("COMPANY_CA"))
    connector = aiohttp.TCPConnector(ssl=context, limit=32)  # serves the API and the file hosts
    async with (
        aiohttp.ClientSession(connector=connector, headers={"User-Agent": "nightly-export"}) as session,
        Clickwrap.from_env(session=session, trust_env=True) as clickwrap,
    ):
        result = await pull(clickwrap, start="2024-01-01", end="2024-02-01", out="january.csv")
        print(f"{result.rows} rows, of {await clickwrap.count()} in all")


asyncio.run(main())
