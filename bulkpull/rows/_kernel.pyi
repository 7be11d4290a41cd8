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
