"""A pull that is killed (SIGKILL) repeatedly, compared with the same pull undisturbed.

    python benchmarks/killed.py [--rows 500000] [--kills 10] [--seed 0] [--export-seconds 2]

Each pull has its own sandbox. The first pull is undisturbed; the second one is killed at random times, drawn from the
seed and spread over about the same duration, and then runs to its end. Both outputs must have the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine, sha256, table

from bulkpull.sandbox.process import SandboxProcess, sandbox_process

FIELDS = "event_type,connection_data.remote_address,connection_data.page_title"


def pull(sandbox: SandboxProcess, out: Path, seconds: float | None) -> bool:
    """Run `bulkpull pull` and kill it after `seconds`; return whether it finished."""
    command = [sys.executable, "-m", "bulkpull", "pull", "--start", "2024-01-01", "--end", "2026-01-01"]
    command += ["--window", "1mo", "--fields", FIELDS, "--out", str(out)]
    environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            _, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    if process.returncode:
        raise SystemExit(stderr)
    print(stderr)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="500000")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export-seconds", default="2")
    options = parser.parse_args()
    sandbox_options = ["--rows", options.rows, "--export-seconds", options.export_seconds]
    rows: list[tuple[object, ...]] = []
    hashes = []
    sent = []
    moments = random.Random(options.seed)
    undisturbed = 0.0
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "activity.csv"
        for kills in (0, options.kills):
            killed = 0
            with sandbox_process(*sandbox_options) as sandbox:
                began = time.perf_counter()
                while killed < kills:
                    if pull(sandbox, out, moments.uniform(0.5, 1.5) * (0.5 + 0.6 * undisturbed / kills)):
                        print(f"finished after {killed} kills")
                        break
                    killed += 1
                if not out.exists():
                    pull(sandbox, out, None)
                wall = time.perf_counter() - began
            undisturbed = undisturbed or wall
            stats = sandbox.stats
            hashes.append(sha256(out))
            sent.append(stats["bytes_sent"])
            again = f"{(sent[-1] - sent[0]) / 1e6:.1f} ({sent[-1] / sent[0] - 1:.1%})"
            requests = sum(stats["requests"].values())
            rows.append((killed, stats["exports"], requests, f"{sent[-1] / 1e6:.1f}", again, f"{wall:.1f}", hashes[-1]))
            out.unlink()
    print(f"{machine()}; {int(options.rows):,} activities in 24 windows\n")
    print(table(("kills", "exports", "requests", "MB sent", "MB sent again", "wall s", "sha256"), rows))
    if len(set(hashes)) > 1:
        raise SystemExit("the outputs differ")


if __name__ == "__main__":
    main()
