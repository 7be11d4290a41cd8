"""Alternative tools: merge files with the same columns into one, keeping the first row of each id."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def with_polars(parts: Sequence[Path], out: Path) -> None:
    import polars

    frame = polars.scan_csv(list(parts), infer_schema=False)
    frame.unique(subset="id", keep="first", maintain_order=True).sink_csv(out)


def with_duckdb(parts: Sequence[Path], out: Path) -> None:
    import duckdb

    names = [str(part) for part in parts]
    duckdb.sql(
        f"COPY (SELECT DISTINCT ON (id) * FROM read_csv({names}, all_varchar = true, header = true)) "  # noqa: S608
        f"TO '{out}' (HEADER)"
    )


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
