"""Compressed bodies, cut anywhere, give the bytes of the file."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull import MalformedPartError, PartError
from bulkpull.download.encoding import PIECE_BYTES, Decoder, encodings, is_compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS = b"id,v\n" + b"".join(b"%d,value %d\n" % (row, row * row) for row in range(500))
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"  # a frame of zstd without content


def raw_deflate(content: bytes) -> bytes:
    return zlib.compress(content, wbits=-zlib.MAX_WBITS)


# By the header, how such a body is made.
CODINGS: dict[str, list[Callable[[bytes], bytes]]] = {
    "": [bytes, gzip.compress, zstd.compress],
    "gzip": [gzip.compress, zstd.compress, bytes, lambda content: gzip.compress(gzip.compress(content))],
    "X-GZIP": [gzip.compress],
    "aws-chunked,gzip": [gzip.compress],
    "deflate, gzip": [lambda content: gzip.compress(zlib.compress(content))],
    "deflate": [zlib.compress, raw_deflate, gzip.compress],
    "zstd": [zstd.compress, lambda content: SKIPPABLE + zstd.compress(content) + SKIPPABLE, gzip.compress],
    "utf-8": [bytes, gzip.compress],
}
MAKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}
CASES = [(header, coding) for header, codings in CODINGS.items() for coding in codings]


def decoded(header: str, pieces: Sequence[bytes]) -> bytes:
    decoder = Decoder(encodings(header))
    found = [piece for data in pieces for piece in decoder.pieces(data)] + list(decoder.finish())
    assert all(len(piece) <= max(PIECE_BYTES, *map(len, pieces), 0) for piece in found)
    return b"".join(found)


def cut(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The body in pieces of these sizes, again and again."""
    pieces = []
    at = number = 0
    while at < len(body):
        pieces.append(body[at : at + sizes[number % len(sizes)]])
        at, number = at + sizes[number % len(sizes)], number + 1
    return pieces or [b""]


@given(
    st.sampled_from(CASES),
    st.sampled_from([b"", b"id\n", b"id,v\n1,2\n", ROWS]),
    st.lists(st.integers(1, 900), min_size=1, max_size=8),
)
def test_any_chunking_of_any_encoding_gives_the_bytes(
    case: tuple[str, Callable[[bytes], bytes]], content: bytes, sizes: list[int]
) -> None:
    header, coding = case
    assert decoded(header, cut(coding(content), sizes)) == content


@given(
    st.sampled_from(["gzip", "zstd", "deflate", ""]),
    st.sampled_from([b"\0", b"\0" * 1000, b"\n", b"garbage", b"\0\0trailing"]),
    st.lists(st.integers(1, 900), min_size=1, max_size=8),
)
def test_what_follows_the_last_member_is_ignored(header: str, garbage: bytes, sizes: list[int]) -> None:
    coding = MAKERS.get(header, gzip.compress)
    body = coding(ROWS) + garbage
    assert decoded(header, cut(body, sizes)) == ROWS


@given(st.sampled_from(["gzip", "zstd", "deflate"]), st.lists(st.integers(1, 900), min_size=1, max_size=4))
def test_members_follow_each_other(header: str, sizes: list[int]) -> None:
    coding = MAKERS[header]
    body = coding(ROWS) + coding(b"") + coding(b"more\n")
    assert decoded(header, cut(body, sizes)) == ROWS + b"more\n"


@given(
    st.integers(PIECE_BYTES - 3, PIECE_BYTES + 3),
    st.sampled_from([gzip.compress, zlib.compress, raw_deflate, zstd.compress]),
)
def test_bodies_about_as_long_as_what_is_decoded_at_a_time(size: int, coding: Callable[[bytes], bytes]) -> None:
    content = b"x" * size
    assert decoded("deflate", [coding(content)]) == content


@pytest.mark.parametrize("coding", [gzip.compress, zlib.compress, raw_deflate, zstd.compress])
@pytest.mark.parametrize("lost", [1, 5, 500])
def test_a_body_that_ends_early_is_damaged(coding: Callable[[bytes], bytes], lost: int) -> None:
    with pytest.raises(MalformedPartError):
        decoded("deflate", [coding(ROWS)[:-lost]])


@pytest.mark.parametrize("coding", [gzip.compress, zstd.compress])
def test_a_body_with_other_bytes_in_it_is_damaged(coding: Callable[[bytes], bytes]) -> None:
    body = bytearray(coding(ROWS))
    body[len(body) // 2] ^= 0xFF
    with pytest.raises(MalformedPartError):
        decoded("gzip", [bytes(body)])


@pytest.mark.parametrize(
    "header",
    [
        *(
            "",
            "identity",
            "none",
            "null",
            "binary",
            "utf-8",
            "UTF8",
            "utf_8",
            "iso-8859-1",
            "latin1",
            "us-ascii",
            "cp1252",
        ),
        *(
            "aws-chunked",
            "charset=utf-8",
            "utf-8; q=1",
            '"utf-8"',
            "identity, UTF-8",
            "windows-1252",
            "utf-16",
            "Shift_JIS",
        ),
    ],
)
def test_labels_of_bodies_that_are_sent_as_they_are(header: str) -> None:
    assert encodings(header) == []


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("gzip", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("GZIP ", ["gzip"]),
        ("aws-chunked,gzip", ["gzip"]),
        ("deflate, zstd", ["zstd", "deflate"]),
    ],
)
def test_labels_of_compressed_bodies(header: str, found: list[str]) -> None:
    assert encodings(header) == found


@pytest.mark.parametrize("label", ["br", "compress", "zlib", "bz2", "hex", "base64", "exi", "pack200-gzip", "x" * 1000])
def test_other_labels_are_refused_by_name(label: str) -> None:
    with pytest.raises(PartError, match=f"encoded as '{label[:40]}'"):
        encodings(f"gzip, {label}")


def test_compressed_bodies_are_known_by_their_first_bytes() -> None:
    assert is_compressed(gzip.compress(ROWS)[:4])
    assert is_compressed(zstd.compress(ROWS)[:4])
    assert is_compressed(SKIPPABLE[:4])
    for head in (b"", b"i", b"id,v", b"\xef\xbb\xbfid", b"PK\x03\x04", b"\x1f\x8b", b"Pid,"):
        assert not is_compressed(head)
