"""Rows are compared byte by byte, with the kernel and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.rows import compare, kernel
from bulkpull.rows.compare import equal_in_block, equal_in_file


@pytest.fixture(params=[None, kernel.KERNEL], ids=["Python", "installed"], scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "KERNEL", request.param)
        patch.setattr(compare, "_READ_BYTES", 50)
        yield


SPANS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 40)), max_size=20)


@given(data=st.text(alphabet="ab", min_size=340, max_size=400), spans=SPANS)
def test_tells_which_rows_are_equal(tmp_path_factory: pytest.TempPathFactory, data: str, spans: list[Any]) -> None:
    content = data.encode()
    path = tmp_path_factory.getbasetemp() / "compared"
    path.write_bytes(content)
    offsets, starts, sizes = np.array(spans, np.int64).reshape(-1, 3).T
    expected = [content[offset : offset + size] == content[start : start + size] for offset, start, size in spans]
    with path.open("rb") as file:
        found = equal_in_file(file.fileno(), offsets, memoryview(content), starts, starts + sizes)
    assert found.tolist() == expected
    assert equal_in_block(offsets, memoryview(content), starts, starts + sizes).tolist() == expected


def test_rows_longer_than_a_read(tmp_path: Path) -> None:
    content = b"x" * 10_000 + b"y" + b"x" * 10_000 + b"z"
    path = tmp_path / "compared"
    path.write_bytes(content)
    starts, ends = np.array([0, 0]), np.array([10_001, 10_000])
    with path.open("rb") as file:
        for offset, expected in ((10_001, [False, True]), (0, [True, True]), (30_000, [False, False])):
            offsets = np.array([offset, offset])
            assert equal_in_file(file.fileno(), offsets, memoryview(content), starts, ends).tolist() == expected


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    one = np.array([0])
    with (tmp_path / "written").open("wb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        equal_in_file(file.fileno(), one, memoryview(b"x"), one, one + 1)
