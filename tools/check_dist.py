"""Install the wheel of dist/, and the sdist without a compiler, into new virtual environments, and pull with them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PULL = """
import os, subprocess, sys
import bulkpull
from bulkpull.sandbox.process import sandbox_process
print(bulkpull.__version__, bulkpull.__file__)
print(subprocess.run(["bulkpull", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
with sandbox_process("--rows", "3000", "--export-seconds", "0.1") as sandbox:
    environment = os.environ | {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token}
    for command in (["bulkpull"], [sys.executable, "-m", "bulkpull"]):
        out = f"{len(command)}.csv"
        command += ["pull", "--start", "2024-01-01", "--end", "2026-01-01", "--out", out, "--fields", "event_type"]
        subprocess.run(command, env=environment, check=True)
"""


def main() -> int:
    """Return 0 if the distributions install, are of this version, scan as they should, and pull all rows."""
    [wheel], [sdist] = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    version = wheel.name.split("-")[1]
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    has_compiler = shutil.which(compiler) is not None
    constraints = [str(ROOT / name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as directory:
        expected = "compiled" if has_compiler else "NumPy"
        pulled = check(wheel, version, expected, Path(directory, "wheel"), constraints, os.environ)
        environment = os.environ | {"CC": shutil.which("false") or "false"}
        assert check(sdist, version, "NumPy", Path(directory, "sdist"), constraints, environment) == pulled
    return 0


def check(
    distribution: Path, version: str, scanner: str, directory: Path, constraints: list[str], environ: Mapping[str, str]
) -> bytes:
    """Install a distribution with the environment variables `environ`, and return what it pulls."""
    venv.create(directory / "venv")
    programs = directory / "venv" / "bin"
    environment = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    install = ["-m", "pip", "--python", str(programs / "python"), "--quiet", "--disable-pip-version-check"]
    install += ["install", "--no-compile", str(distribution)]
    for path in constraints:
        install += ["--constraint", path]
    subprocess.run([sys.executable, *install], env=environment, check=True)  # noqa: S603
    found = subprocess.run(  # noqa: S603
        [programs / "python", "-c", PULL],
        cwd=directory,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    line, told = found.stdout.splitlines()[:2]
    installed, _, package = line.partition(" ")
    assert installed == version, f"{distribution.name} holds version {installed}"
    assert told == f"bulkpull {version} (scanner: {scanner})", f"{distribution.name}: {told}"
    assert Path(package).is_relative_to(directory.resolve()), f"{package} is not of {distribution.name}"
    one, other = ((directory / f"{number}.csv").read_bytes() for number in (1, 3))
    assert one == other
    assert one.count(b"\n") > 3000  # rows, and a header
    print(f"{distribution.name} installs, and pulls 3,000 rows (scanner: {scanner})")
    return one


if __name__ == "__main__":
    sys.exit(main())
