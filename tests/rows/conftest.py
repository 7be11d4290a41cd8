"""The two fast paths of the scanner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bulkpull.rows import kernel, scan
from bulkpull.rows.numpy_scan import NumpyBuffer

# The same twice where the package was installed without a compiler
FAST_BUFFERS = (NumpyBuffer, scan.FAST_BUFFER)


@pytest.fixture(params=FAST_BUFFERS, ids=["NumPy", "installed"], scope="module")
def each_fast_path(request: pytest.FixtureRequest) -> Iterator[type[scan.FastBuffer]]:
    """Run a module's tests once with each of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "FAST_BUFFER", request.param)
        yield request.param


@pytest.fixture(params=[None, kernel.KERNEL], ids=["NumPy", "installed"], scope="module")
def each_renderer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests once with each of the two ways to render cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "KERNEL", request.param)
        yield
