"""Compressed bodies, decoded piece by piece, whatever they expand to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from bulkpull.clickwrap.retry import TransientError
from bulkpull.errors import PartError

PIECE = 256 * 1024  # bytes decoded at a time at most
BOMB_RATIO = 100  # CSV shrinks to a tenth or so; zlib's most is about a thousandth
BOMB_SIZE = 16 * 1024 * 1024  # bytes up to which any ratio is fine
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class Decoder:
    """Decodes one body of the content encodings gzip and deflate (RFC 9110, 8.4.1). Raises PartError for others."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise PartError(f"the file host sends the file encoded as {encoding[:40]!r}, though it is asked not to")
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._taken = self._given = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the body decode to. Raises TransientError where they are damaged, PartError where
        they expand beyond reason."""
        self._taken += len(data)
        while data:
            try:
                if self._stream.eof:  # gzip bodies may have several members, one behind the other
                    self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
                piece = self._stream.decompress(data, PIECE)
            except zlib.error as error:
                raise TransientError(f"the compressed body is damaged: {error}") from None
            data = self._stream.unused_data or self._stream.unconsumed_tail
            self._given += len(piece)
            if self._given > max(BOMB_SIZE, BOMB_RATIO * self._taken):
                raise PartError(f"the file host sends {self._taken} bytes that expand to more than {self._given}")
            if piece:
                yield piece

    def finish(self) -> None:
        """The body is over. Raises TransientError where that is too early."""
        if not self._stream.eof:
            raise TransientError("the transfer broke: the compressed body ended early")
