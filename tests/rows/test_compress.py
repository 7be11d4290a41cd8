"""Compressed frames form one file that other decompressors read."""

from __future__ import annotations

import gzip
import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.rows import compress
from bulkpull.rows.compress import compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def decompressed(data: bytes, compression: str) -> bytes:
    with gzip.open(io.BytesIO(data)) if compression == "gz" else zstd.open(io.BytesIO(data)) as file:
        return bytes(file.read())


@given(st.lists(st.binary(max_size=40)), st.sampled_from(["gz", "zst"]))
def test_decompresses_to_the_same_bytes(pieces: list[bytes], compression: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "FRAME_BYTES", 16)
        data = b"".join(compressed(pieces, compression))
        assert decompressed(data, compression) == b"".join(pieces)
        assert data == b"".join(compressed([b"".join(pieces)], compression))  # wherever the input was split
