"""`make demo`: the real `bulkpull pull` against a sandbox of half a million activities."""

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
FIELDS = "event_type,connection_data.remote_address,connection_data.page_title,custom_data.vip"


def main() -> int:
    """Runs the demo; returns the pull's exit code."""
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
        say("\nThe output begins so:\n")
        with OUTPUT.open(encoding="utf-8", newline="") as lines:
            say("".join(islice(lines, 6)))
        say(f"It is {OUTPUT.absolute()}")
        seen = sandbox.seen
        say(
            f"The sandbox saw {sum(seen['requests'].values())} requests ({seen['throttled']} throttled), "
            f"{seen['exports']} exports ({seen['peak_exports']} at once), {seen['downloads']} downloads "
            f"({seen['peak_downloads']} at once), and the token on the file host {seen['leaks']} times."
        )
    return code


def say(text: str) -> None:
    """Prints at once, since the pull writes to the same terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
