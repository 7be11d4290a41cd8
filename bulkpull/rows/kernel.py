"""The compiled kernel, if there is one."""

from __future__ import annotations

from typing import Any

try:
    from bulkpull.rows import _kernel
except ImportError:  # it was installed without a compiler
    KERNEL: Any = None
else:
    KERNEL = _kernel
