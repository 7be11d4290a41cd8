"""Alternative tools, each used as its documentation suggests: one output with the first row of each id.

    python peers.py TOOL OUT SOURCE...

The sources are files, or URLs; `script` and `dlt` read only URLs, which they download themselves.
"""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

PARALLEL = 8


def with_polars(sources: Sequence[str], out: Path) -> None:
    import polars

    frame = polars.scan_csv(list(sources), infer_schema=False).unique("id", keep="first", maintain_order=True)
    if out.suffix == ".parquet":
        frame.sink_parquet(out)
    else:
        frame.sink_csv(out)


def with_polars_all_rows(sources: Sequence[str], out: Path) -> None:
    """Convert to Parquet without deduplication."""
    import polars

    polars.scan_csv(list(sources), infer_schema=False).sink_parquet(out)


def with_duckdb(sources: Sequence[str], out: Path) -> None:
    import duckdb

    duckdb.sql(
        f"COPY (SELECT DISTINCT ON (id) * FROM read_csv({list(sources)}, all_varchar = true, header = true)) "  # noqa: S608
        f"TO '{out}' (HEADER)"
    )


def with_dlt(links: Sequence[str], out: Path) -> None:
    """Load the links into DuckDB, merged on the id, and export the table."""
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
    import dlt
    import duckdb
    import pyarrow as pa
    from dlt.sources.helpers import requests
    from pyarrow import csv as arrow_csv

    @dlt.resource(name="activity", write_disposition="merge", primary_key="id")
    def activity() -> Iterator[Any]:
        for link in links:
            response = requests.get(link)
            columns = response.content[:4096].split(b"\n", 1)[0].decode().strip().split(",")
            yield arrow_csv.read_csv(
                pa.BufferReader(response.content),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
            )

    database = out.with_name("dlt.duckdb")
    pipeline = dlt.pipeline(
        "activity",
        pipelines_dir=str(out.with_name("pipelines")),
        destination=dlt.destinations.duckdb(str(database)),
        dataset_name="clickwrap",
    )
    pipeline.run(activity())
    with duckdb.connect(str(database)) as connection:
        connection.sql(f"COPY clickwrap.activity TO '{out}' (HEADER)")


def with_script(links: Sequence[str], out: Path) -> None:
    """A typical script: gather for the downloads, the csv module and a set."""

    async def fetch_all() -> list[str]:
        limit = asyncio.Semaphore(PARALLEL)

        async def fetch(session: aiohttp.ClientSession, link: str) -> str:
            async with limit, session.get(link) as response:
                return await response.text()

        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(fetch(session, link) for link in links))

    write_first_rows((text.splitlines(keepends=True) for text in asyncio.run(fetch_all())), out)


def write_first_rows(files: Iterable[Iterable[str]], out: Path) -> None:
    """Merge with the csv module and a set. Files are given as lines; the first field is the id."""
    seen: set[str] = set()
    with out.open("w", encoding="utf-8", newline="") as written:
        writer = csv.writer(written, lineterminator="\n")
        for number, lines in enumerate(files):
            rows = csv.reader(lines)
            header = next(rows)
            if not number:
                writer.writerow(header)
            for row in rows:
                if row[0] not in seen:
                    seen.add(row[0])
                    writer.writerow(row)


TOOLS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "polars": with_polars,
    "polars-all-rows": with_polars_all_rows,
    "duckdb": with_duckdb,
    "dlt": with_dlt,
    "script": with_script,
}


def versions(names: Iterable[str]) -> str:
    """Return the versions of packages and commands, such as `polars` and `aria2c`."""
    found = []
    for name in names:
        command = shutil.which(name) or (name == "nginx" and shutil.which(name, path="/usr/sbin:/usr/local/sbin"))
        if command:
            option = (
                "-v" if name == "nginx" else "--version"
            )  # nginx prints it to standard error: nginx version: nginx/1
            told = subprocess.run([command, option], capture_output=True, text=True, check=True)  # noqa: S603
            words = (told.stdout or told.stderr).replace("/", " ").split()
            found.append(f"{name} {next(word for word in words if word[0].isdigit())}")
        else:
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


if __name__ == "__main__":
    TOOLS[sys.argv[1]](sys.argv[3:], Path(sys.argv[2]))
