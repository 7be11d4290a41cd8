"""CSV bytes to records, the set of ids seen, and the sink: pure and synchronous, no network, no asyncio."""
