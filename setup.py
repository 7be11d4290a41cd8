"""The compiled kernel, the one thing that pyproject.toml cannot describe: its ABI depends on the interpreter."""

import os
import sysconfig

from setuptools import Extension, setup

# One build serves all versions from CPython 3.11 on. Free-threaded interpreters have no such ABI.
USES_STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "bulkpull.rows._kernel",
            ["bulkpull/rows/_kernel.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if USES_STABLE_ABI else [],
            extra_compile_args=["-std=c11", "-O3"],
            py_limited_api=USES_STABLE_ABI,
            optional="CIBUILDWHEEL" not in os.environ,  # without a compiler, NumPy scans; a released wheel needs it
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if USES_STABLE_ABI else {},
)
