"""Bytes to gzip members (RFC 1952) or Zstandard frames (RFC 8878) of a fixed length, several at a time.

Either may stand one behind the other in a file. Each depends on its own bytes alone, so what comes of the same data is
the same, whatever the number of threads.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

FRAME = 4 * 1024 * 1024  # bytes
_MOST_THREADS = 4  # each has a frame in memory
_GZIP_LEVEL = 6  # gzip's own choice
_ZSTD_LEVEL = 3  # zstd's


def compressed(pieces: Iterable[bytes], compression: str) -> Generator[bytes]:
    """The frames (`gz` or `zst`) of the bytes in `pieces`, which may be cut anywhere."""
    compress = _gzip if compression == "gz" else _zstd
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    coming: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads, "compress") as pool:
        for frame in _frames(pieces):
            coming.append(pool.submit(compress, frame))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _frames(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, in frames of equal length but for the last; a single empty one where there are none."""
    gathered, size, any_frame = [b""], 0, False
    for piece in pieces:
        begin = 0
        while size + len(piece) - begin >= FRAME:
            behind = begin + FRAME - size
            yield b"".join((*gathered, piece[begin:behind]))
            gathered, size, begin, any_frame = [], 0, behind, True
        gathered.append(piece[begin:])
        size += len(piece) - begin
    if size or not any_frame:
        yield b"".join(gathered)


def _gzip(frame: bytes) -> bytes:
    return gzip.compress(frame, _GZIP_LEVEL, mtime=0)


def _zstd(frame: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(frame, _ZSTD_LEVEL)
