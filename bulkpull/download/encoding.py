"""Decoding of compressed bodies, in pieces of limited size.

`Content-Encoding` is not reliable: hosts write charsets into it, leave it out, or label bodies that are not compressed.
So the first bytes of a body decide where they can.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from bulkpull.errors import MalformedPartError, PartError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

PIECE_BYTES = 256 * 1024  # decoded at a time
MAX_EXPANSION = 100  # decoded bytes per received byte: CSV compresses about 10 times, zlib at most about 1000 times
MIN_EXPANSION_BYTES = 16 * 1024 * 1024  # decoded bytes up to which any ratio is allowed
MAGIC_BYTES = 4  # that identify a compressed body
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive, and of an empty one
_TRIAL_BYTES = 512  # that identify a deflate stream, which has no magic number
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f
_COMPRESSED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd"}
# Values of Content-Encoding that name no encoding, besides charsets.
_NO_ENCODING = frozenset({"", "identity", "none", "null", "binary", "plain", "text", "7bit", "8bit", "aws-chunked"})


def encodings(header: str) -> list[str]:
    """Return the compressions that a `Content-Encoding` header names, in the order of decoding.

    Raises:
        PartError: One of them is not supported.
    """
    found = []
    for label in header.split(","):
        name = label.partition(";")[0].strip().strip("\"'").lower()
        if name in _COMPRESSED:
            found.append(_COMPRESSED[name])
        elif name not in _NO_ENCODING and not _is_charset(name.removeprefix("charset=")):
            raise PartError(f"the file host sent the file encoded as {name[:40]!r}, which is not supported")
    return found[::-1]


def _is_charset(name: str) -> bool:
    try:
        b"id".decode(name[:40])
    except UnicodeError:
        return True
    except (LookupError, ValueError):  # no codec of that name, or none between bytes and text
        return False
    return True


def is_compressed(head: bytes) -> bool:
    """Return whether a body that begins with these bytes is gzip or zstd."""
    return head.startswith(_GZIP) or _is_zstd(head)


def _is_zstd(head: bytes) -> bool:
    return head.startswith(_ZSTD) or (0x50 <= (head or b"\0")[0] <= 0x5F and head[1:4] == _ZSTD_SKIPPABLE)


def _begins_zlib(head: bytes) -> bool:
    return len(head) > 1 and head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0


class Decoder:
    """Decodes one body with these `encodings`, the outermost first, and the file itself if it is compressed."""

    def __init__(self, encodings: Sequence[str]) -> None:
        self._layers = [_Layer(encoding) for encoding in (*encodings, "")]
        self._received = self._decoded = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body.

        Raises:
            MalformedPartError: They are corrupt.
            PartError: They expand too much.
        """
        self._received += len(data)
        yield from self._decode(data, 0)

    def finish(self) -> Iterator[bytes]:
        """Decode what is left at the end of the body. Raises MalformedPartError if the end is missing."""
        for number, layer in enumerate(self._layers, 1):
            for piece in layer.finish():
                yield from self._decode(piece, number)

    def _decode(self, data: bytes, number: int) -> Iterator[bytes]:
        """Decode with the layers from `number` on."""
        if number < len(self._layers):
            for piece in self._layers[number].pieces(data):
                yield from self._decode(piece, number + 1)
            return
        self._decoded += len(data)
        if self._decoded > max(MIN_EXPANSION_BYTES, MAX_EXPANSION * self._received):
            raise PartError(
                f"the file host sent {self._received} compressed bytes that expand to more than {self._decoded}"
            )
        yield data


class _Decompressor(Protocol):
    """A decoder of one stream, as `ZstdDecompressor` is: it keeps input that it cannot decode yet."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibDecompressor:
    """A decoder of a gzip member, or of a zlib or raw deflate stream."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.needs_input = not self._stream.unconsumed_tail and len(piece) < max_length
        return piece


def _pieces(stream: _Decompressor, data: bytes) -> Iterator[bytes]:
    """Decode bytes of a stream."""
    has_more = True
    while has_more:
        piece = stream.decompress(data, PIECE_BYTES)
        data = b""
        has_more = not stream.eof and not stream.needs_input
        if piece:
            yield piece


class _Layer:
    """Removes one encoding if the body has it. A body that is not compressed passes unchanged."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._needed = _TRIAL_BYTES if encoding == "deflate" else MAGIC_BYTES
        self._head = b""  # of the body, or of what follows a stream, until it is long enough to be identified
        self._stream: _Decompressor | None = None
        self._is_identified = self._is_over = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._is_identified and self._stream is None:
            if data and not self._is_over:
                yield data
            return
        if not self._is_identified:
            data = self._head + data
            self._head = b""
            if len(data) < self._needed:
                self._head = data
                return
        yield from self._decode(data)

    def finish(self) -> Iterator[bytes]:
        if not self._is_identified and self._head:
            self._needed = 0
            yield from self._decode(self._head)
        if self._is_identified and self._stream is not None and not self._stream.eof:
            raise MalformedPartError("the compressed body ended early")

    def _decode(self, data: bytes) -> Iterator[bytes]:
        """Decode one stream after another: a body may consist of several."""
        while data:
            if not self._is_identified:
                is_first = self._stream is None
                if not is_first:
                    data = data.lstrip(b"\0")  # padding, as on tapes
                if len(data) < self._needed:
                    self._head = data
                    return
                self._stream, self._is_identified = self._identify(data, is_first=is_first), True
                if self._stream is None:
                    self._is_over = not is_first  # what follows the last stream is ignored, as by other tools
                    if is_first:
                        yield data
                    return
            assert self._stream is not None
            try:
                yield from _pieces(self._stream, data)
            except (zlib.error, ZstdError) as error:
                raise MalformedPartError(f"the compressed body is corrupt: {error}") from None
            data = b""
            if self._stream.eof:
                data, self._needed = self._stream.unused_data, min(self._needed, MAGIC_BYTES)
                self._is_identified = False

    def _identify(self, head: bytes, *, is_first: bool) -> _Decompressor | None:
        """Return a decoder for the stream that begins with `head`, if it is one."""
        if head.startswith(_GZIP):
            return _ZlibDecompressor(16 + zlib.MAX_WBITS)
        if _is_zstd(head):
            return ZstdDecompressor()
        if self._encoding == "deflate" and (is_first or _begins_zlib(head)):
            # With the header of zlib, as the standard says, or without, as some servers send it.
            for wbits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
                try:
                    zlib.decompressobj(wbits).decompress(head, _TRIAL_BYTES)
                except zlib.error:
                    continue
                return _ZlibDecompressor(wbits)
        return None
