"""Compile the kernel with AddressSanitizer and UndefinedBehaviorSanitizer, and run its tests with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"
KERNEL = BUILD / "bulkpull" / "rows" / "_kernel.abi3.so"
TESTS = "tests/rows/test_kernel.py"
FLAGS = ("-std=c11", "-O1", "-g", "-shared", "-fPIC", "-fno-omit-frame-pointer", "-DPy_LIMITED_API=0x030B0000")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
RUN = """
import sys
import pytest
code = pytest.main(sys.argv[2:])
from bulkpull.rows import _kernel
assert _kernel.__file__ == sys.argv[1], f"{_kernel.__file__} was tested, which has no sanitizers"
sys.exit(code)
"""


def main() -> int:
    """Return 0 if the tests pass and the sanitizers find no error."""
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        print("The sanitizers are left out: they need gcc on Linux.")
        return 0
    # A copy of the package, which holds this kernel instead of the ordinary one
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(ROOT / "bulkpull", BUILD / "bulkpull", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    include = sysconfig.get_path("include")
    source = ROOT / "bulkpull" / "rows" / "_kernel.c"
    subprocess.run([compiler, *FLAGS, *SANITIZERS, f"-I{include}", source, "-o", KERNEL], check=True)  # noqa: S603
    runtime = subprocess.run(  # noqa: S603
        [compiler, "-print-file-name=libasan.so"], check=True, stdout=subprocess.PIPE, text=True
    )
    environment = os.environ | {
        "PYTHONPATH": str(BUILD),
        "PYTHONMALLOC": "malloc",  # Python's own allocator hides overruns from the sanitizer
        "LD_PRELOAD": runtime.stdout.strip(),  # the interpreter itself is not linked with it
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter does not free everything at its exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # -P keeps this directory, with the ordinary kernel, off the path; pytest must not capture the report of a crash.
    command = [sys.executable, "-P", "-c", RUN, str(KERNEL), "-q", "--capture=sys", "-p", "no:cacheprovider", TESTS]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
