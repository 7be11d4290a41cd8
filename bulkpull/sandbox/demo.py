"""`make demo`: run `bulkpull pull` against a sandbox with half a million activities."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

from bulkpull.sandbox.process import sandbox_process

ROWS = 500_000
START, END = "2024-01-01", "2026-01-01"
OUTPUT = Path("demo/activity.csv")
FIELDS = (
    "event_type,connection_data.remote_address,connection_data.page_title,connection_data.user_agent,custom_data.plan"
)


def main() -> int:
    """Run the demo; return the pull's exit code."""
    OUTPUT.parent.mkdir(exist_ok=True)
    say(f"Starting a sandbox with {ROWS:,} activities from {START} to {END} ...")
    with sandbox_process("--rows", str(ROWS), "--start", START, "--end", END) as sandbox:
        arguments = ["pull", "--start", START, "--end", END, "--out", str(OUTPUT), "--fields", FIELDS, "--overwrite"]
        say(f"\n$ export BULKPULL_BASE_URL={sandbox.url} BULKPULL_TOKEN={sandbox.token}")
        say(f"$ bulkpull {' '.join(arguments)}\n")
        environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
        command = [sys.executable, "-m", "bulkpull", *arguments]
        code = subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
    if code == 0:
        say("\nThe first lines of the output:\n")
        with OUTPUT.open(encoding="utf-8", newline="") as lines:
            say("".join(islice(lines, 6)))
        say(f"Output: {OUTPUT.absolute()}")
        stats = sandbox.stats
        say(
            f"Sandbox: {sum(stats['requests'].values())} requests ({stats['throttled']} throttled), "
            f"{stats['exports']} exports ({stats['peak_exports']} at once), {stats['downloads']} downloads "
            f"({stats['peak_downloads']} at once), {stats['leaks']} token leaks to the file host."
        )
    return code


def say(text: str) -> None:
    """Print and flush, since the pull writes to the same terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
