"""Complete pulls of the same data with different concurrency, compared with a typical script.

    python benchmarks/pull.py [--rows 500000] [--export-seconds 2]

Each runs in a separate process against one sandbox, which processes eight exports at a time; an export takes 1 to 3
seconds, longer with more rows. The outputs must have the same bytes, and as many rows as the sandbox exported ids.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from measure import machine, run, sha256, table

from bulkpull.sandbox.process import sandbox_process

FIELDS = "event_type,connection_data.remote_address,connection_data.page_title"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="500000")
    parser.add_argument("--export-seconds", default="2")
    options = parser.parse_args()
    sandbox_options = ["--rows", options.rows, "--export-seconds", options.export_seconds]
    with tempfile.TemporaryDirectory() as directory, sandbox_process(*sandbox_options) as sandbox:
        environment = {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
        rows: list[tuple[object, ...]] = []
        hashes = set()
        # The first pull is not measured, since the sandbox writes its files during it.
        for exports, downloads in ((None, None), (1, 1), (4, 4), (16, 8)):
            out = Path(directory) / "activity.csv"
            arguments = ["-m", "bulkpull", "pull", "--start", "2024-01-01", "--end", "2026-01-01", "--window", "1mo"]
            arguments += ["--fields", FIELDS, "--out", str(out), "--overwrite", "--json", "-q"]
            if exports is None:
                run(arguments, **environment)
                continue
            done = run([*arguments, "--exports", str(exports), "--downloads", str(downloads)], **environment)
            result = json.loads(done.stdout)
            hashes.add(sha256(out))
            rows.append(
                (
                    f"bulkpull, {exports} exports, {downloads} downloads",
                    f"{done.wall:.1f}",
                    f"{done.cpu:.1f}",
                    f"{done.peak:.0f}",
                    result["rows"],
                    result["requests"],
                    result["throttled"],
                    sha256(out),
                )
            )
        out = Path(directory) / "script.csv"
        done = run([str(Path(__file__).with_name("script.py")), str(out), "2024", "24"], **environment)
        with out.open("rb") as lines:
            written = sum(1 for _ in lines) - 1
        rows.append(
            (
                "a script, month by month",
                f"{done.wall:.1f}",
                f"{done.cpu:.1f}",
                f"{done.peak:.0f}",
                f"{written} lines",
                "",
                "",
                "",
            )
        )
        print(f"{machine()}; {int(options.rows):,} activities in 24 windows\n")
        print(table(("tool", "wall s", "CPU s", "peak MB", "rows", "requests", "429", "sha256"), rows))
        report = run(
            ["-c", f"import urllib.request as u; print(u.urlopen('{sandbox.url[:-5]}/sandbox?ids').read().decode())"]
        )
        distinct = json.loads(report.stdout)["distinct_ids"]
    same = "same bytes" if len(hashes) == 1 else "DIFFERENT BYTES"
    print(f"\nOutputs of the pulls: {same}. The sandbox exported {distinct:,} distinct ids.")
    if len(hashes) > 1 or any(row[4] != distinct for row in rows[:-1]):
        raise SystemExit("the outputs differ, or rows are missing")


if __name__ == "__main__":
    main()
