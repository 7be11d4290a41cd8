"""Compressed bodies, decoded piece by piece, whatever they expand to.

Labels and bodies do not always agree: hosts write charsets into `Content-Encoding`, leave the label out, or label what
is not compressed. So the first bytes decide where they can.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence

from bulkpull.errors import PartError
from bulkpull.retry import TransientError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

PIECE = 256 * 1024  # bytes decoded at a time at most
BOMB_RATIO = 100  # CSV shrinks to a tenth or so; zlib's most is about a thousandth
BOMB_SIZE = 16 * 1024 * 1024  # bytes up to which any ratio is fine
MAGIC = 4  # bytes that tell a compressed body from others
_TRIAL = 512  # bytes that tell a deflate stream, which has no magic number
ZIPS = (b"PK\x03\x04", b"PK\x05\x06")  # what zips begin with: a file, or the end of a list without any
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f
_COMPRESSED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd"}
# What is found in Content-Encoding without any encoding, apart from the names of charsets.
_NO_ENCODING = frozenset({"", "identity", "none", "null", "binary", "plain", "text", "7bit", "8bit", "aws-chunked"})


class DamagedBodyError(TransientError):
    """A compressed body that came whole does not decode."""


def encodings(header: str) -> list[str]:
    """The compressions that a `Content-Encoding` header names, in the order in which they are to be undone.

    Raises PartError for those that cannot be undone here.
    """
    found = []
    for label in header.split(","):
        name = label.partition(";")[0].strip().strip("\"'").lower()
        if name in _COMPRESSED:
            found.append(_COMPRESSED[name])
        elif name not in _NO_ENCODING and not _is_charset(name.removeprefix("charset=")):
            raise PartError(f"the file host sends the file encoded as {name[:40]!r}, though it is asked not to")
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
    """Whether a body that begins with these bytes is gzip or zstd, whatever its label says."""
    return head.startswith(_GZIP) or _is_zstd(head)


def _is_zstd(head: bytes) -> bool:
    return head.startswith(_ZSTD) or (0x50 <= (head or b"\0")[0] <= 0x5F and head[1:4] == _ZSTD_SKIPPABLE)


def _begins_zlib(head: bytes) -> bool:
    return len(head) > 1 and head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0


class Decoder:
    """Decodes one body of these `encodings`, the outermost first, and of a file that is compressed itself."""

    def __init__(self, encodings: Sequence[str]) -> None:
        self._layers = [_Layer(encoding) for encoding in (*encodings, "")]
        self._taken = self._given = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the body decode to. Raises DamagedBodyError where they are damaged, PartError where
        they expand beyond reason."""
        self._taken += len(data)
        yield from self._through(data, 0)

    def finish(self) -> Iterator[bytes]:
        """What is left once the body is over. Raises DamagedBodyError where that is too early."""
        for number, layer in enumerate(self._layers, 1):
            for piece in layer.finish():
                yield from self._through(piece, number)

    def _through(self, data: bytes, number: int) -> Iterator[bytes]:
        if number < len(self._layers):
            for piece in self._layers[number].pieces(data):
                yield from self._through(piece, number + 1)
            return
        self._given += len(data)
        if self._given > max(BOMB_SIZE, BOMB_RATIO * self._taken):
            raise PartError(f"the file host sends {self._taken} bytes that expand to more than {self._given}")
        yield data


class _Inflater:
    """One gzip member, or zlib or raw deflate stream."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        more = True
        while more:
            piece = self._stream.decompress(data, PIECE)
            data = self._stream.unconsumed_tail
            more = not self.eof and (bool(data) or len(piece) == PIECE)
            if piece:
                yield piece


class _ZstdFrame:
    """One frame of zstd."""

    def __init__(self) -> None:
        self._stream = ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        more = True
        while more:
            piece = self._stream.decompress(data, PIECE)
            data = b""
            more = not self.eof and not self._stream.needs_input
            if piece:
                yield piece


class _Layer:
    """Undoes one encoding, if the body has it: what begins like no compressed body passes as it is."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._needed = _TRIAL if encoding == "deflate" else MAGIC
        self._head = b""  # of the body, or of what follows a whole stream, until it is long enough to tell what it is
        self._stream: _Inflater | _ZstdFrame | None = None
        self._decided = self._over = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._decided and self._stream is None:
            if data and not self._over:
                yield data
            return
        if not self._decided:
            data = self._head + data
            self._head = b""
            if len(data) < self._needed:
                self._head = data
                return
        yield from self._decode(data)

    def finish(self) -> Iterator[bytes]:
        if not self._decided and self._head:
            self._needed = 0
            yield from self._decode(self._head)
        if self._decided and self._stream is not None and not self._stream.eof:
            raise DamagedBodyError("the compressed body ended early")

    def _decode(self, data: bytes) -> Iterator[bytes]:
        """Decodes stream after stream: bodies may have several, one behind the other."""
        while data:
            if not self._decided:
                again = self._stream is not None
                if again:
                    data = data.lstrip(b"\0")  # padding, as tapes have it
                if len(data) < self._needed:
                    self._head = data
                    return
                self._stream, self._decided = self._begun(data, again), True
                if self._stream is None:
                    self._over = again  # whatever follows the last stream is ignored, as by other tools
                    if not again:
                        yield data
                    return
            assert self._stream is not None
            try:
                yield from self._stream.pieces(data)
            except (zlib.error, ZstdError) as error:
                raise DamagedBodyError(f"the compressed body is damaged: {error}") from None
            data = b""
            if self._stream.eof:
                data, self._decided, self._needed = self._stream.rest, False, min(self._needed, MAGIC)

    def _begun(self, head: bytes, again: bool) -> _Inflater | _ZstdFrame | None:
        """A decoder of the stream that begins with `head`, if one does, `again` behind another."""
        if head.startswith(_GZIP):
            return _Inflater(16 + zlib.MAX_WBITS)
        if _is_zstd(head):
            return _ZstdFrame()
        if self._encoding == "deflate" and (not again or _begins_zlib(head)):
            # With the header of zlib, as the standard has it, or without, as some servers have it.
            for wbits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
                try:
                    zlib.decompressobj(wbits).decompress(head, _TRIAL)
                except zlib.error:
                    continue
                return _Inflater(wbits)
        return None
