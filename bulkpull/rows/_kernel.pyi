"""The compiled kernel; its source is `_kernel.c`."""

from typing import Any

def scan(
    data: bytearray,
    size: int,
    width: int,
    key_at: int,
    time_at: int,
    start: bytes,
    end: bytes,
    separators: Any,
    keys: Any,
    others: Any,
    way: int,
    /,
) -> tuple[int, int, int, int, int, int]: ...
def ways() -> tuple[str, ...]: ...
def reorder(data: Any, separators: Any, width: int, order: Any, out: Any, out_separators: Any, /) -> int: ...
def invalid_utf8(data: Any, /) -> int: ...
def columns(
    data: Any,
    separators: Any,
    width: int,
    time_at: int,
    offsets: Any,
    validity: Any,
    texts: Any,
    instants: Any,
    instant_validity: Any,
    /,
) -> tuple[int, bool]: ...
def json_lines(
    data: Any, separators: Any, width: int, row: int, order: Any, between: bytes, between_ends: Any, out: Any, /
) -> tuple[int, int]: ...
def equal(file: int, offsets: Any, data: Any, starts: Any, ends: Any, results: Any, /) -> None: ...
