"""The compiled kernel."""

from __future__ import annotations

import pytest

_kernel = pytest.importorskip("bulkpull.rows._kernel")


def test_tells_its_version() -> None:
    assert _kernel.version() == 0
