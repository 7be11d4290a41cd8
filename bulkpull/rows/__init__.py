"""CSV parsing, deduplication and output formats. Synchronous: no network, no asyncio."""
