"""Install the wheel of dist/ into a new virtual environment, and pull with it from a sandbox of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PULL = """
import os, subprocess, sys
import bulkpull
from bulkpull.sandbox.process import sandbox_process
print(bulkpull.__version__, bulkpull.__file__)
with sandbox_process("--rows", "3000", "--export-seconds", "0.1") as sandbox:
    environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
    for command in (["bulkpull"], [sys.executable, "-m", "bulkpull"]):
        out = f"{len(command)}.csv"
        command += ["pull", "--start", "2024-01-01", "--end", "2026-01-01", "--out", out, "--fields", "event_type"]
        subprocess.run(command, env=environment, check=True)
"""


def main() -> int:
    """Return 0 if the wheel installs, is of this version, and pulls all rows."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        venv.create(directory / "venv")
        programs = directory / "venv" / "bin"
        install = ["-m", "pip", "--python", str(programs / "python"), "--quiet", "--disable-pip-version-check"]
        install += ["install", "--no-compile", str(wheel)]
        for constraints in sys.argv[1:]:
            install += ["--constraint", str(ROOT / constraints)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
        subprocess.run([sys.executable, *install], check=True)  # noqa: S603
        found = subprocess.run(  # noqa: S603
            [programs / "python", "-c", PULL],
            cwd=directory,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        version, _, package = found.stdout.partition("\n")[0].partition(" ")
        assert version == wheel.name.split("-")[1], f"{wheel.name} holds version {version}"
        assert Path(package).is_relative_to(directory.resolve()), f"{package} is not the wheel's"
        one, other = ((directory / f"{number}.csv").read_bytes() for number in (1, 3))
        assert one == other
        assert one.count(b"\n") > 3000  # rows, and a header
    print(f"{wheel.name} installs, and pulls 3,000 rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
