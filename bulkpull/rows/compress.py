"""Parallel compression to gzip (RFC 1952) or Zstandard (RFC 8878).

The data is split into frames of a fixed length, which are compressed independently and concatenated: both formats allow
that. The output is therefore deterministic, whatever the number of threads.
"""

from __future__ import annotations

import gzip
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

FRAME_BYTES = 4 * 1024 * 1024  # uncompressed
_MAX_THREADS = 4  # each holds a frame in memory
_GZIP_LEVEL = 6  # the default of gzip(1)
_ZSTD_LEVEL = 3  # the default of zstd(1)


def compressed(pieces: Iterable[bytes], compression: str) -> Generator[bytes]:
    """Yield the bytes in `pieces` as compressed frames; `compression` is `gz` or `zst`."""
    compress = _gzip if compression == "gz" else _zstd
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    pending: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads, "compress") as pool:
        for frame in _fixed_frames(pieces):
            pending.append(pool.submit(compress, frame))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _fixed_frames(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in frames of equal length, except the last; one empty frame if there are no bytes."""
    buffered, size, any_frame = [b""], 0, False
    for piece in pieces:
        start = 0
        while size + len(piece) - start >= FRAME_BYTES:
            end = start + FRAME_BYTES - size
            yield b"".join((*buffered, piece[start:end]))
            buffered, size, start, any_frame = [], 0, end, True
        buffered.append(piece[start:])
        size += len(piece) - start
    if size or not any_frame:
        yield b"".join(buffered)


def _gzip(frame: bytes) -> bytes:
    return gzip.compress(frame, _GZIP_LEVEL, mtime=0)


def _zstd(frame: bytes) -> bytes:
    from bulkpull.rows.zstandard import zstd  # not every pull needs it

    return zstd.compress(frame, _ZSTD_LEVEL)
