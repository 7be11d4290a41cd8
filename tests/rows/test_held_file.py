"""Files in memory: what is read is what was put in, and no block is used again while anybody may read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.rows import held_file
from bulkpull.rows.held_file import HeldFile, Memory, open_file

BLOCK_BYTES = 64


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_file, "BLOCK_BYTES", BLOCK_BYTES)
        yield


def hold(memory: Memory, data: bytes) -> HeldFile:
    blocks = []
    for at in range(0, len(data), BLOCK_BYTES):
        assert memory.reserve(1)
        block = memory.take()
        piece = data[at : at + BLOCK_BYTES]
        block[: len(piece)] = piece
        blocks.append(block)
    return HeldFile(blocks, len(data), memory)


@given(size=st.integers(0, 3 * BLOCK_BYTES), reads=st.lists(st.integers(1, 2 * BLOCK_BYTES), max_size=9))
def test_reads_like_any_file(size: int, reads: list[int]) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    with open_file(hold(Memory(4 * BLOCK_BYTES), data)) as file:
        at = 0
        for count in reads:
            piece = file.read(count) or b""
            assert piece == data[at : at + len(piece)]
            assert piece or at == size
            at += len(piece)
        file.seek(size // 2)
        assert b"".join(iter(lambda: file.read(1000), b"")) == data[size // 2 :]


def test_blocks_are_free_again_with_the_last_reference() -> None:
    memory = Memory(2 * BLOCK_BYTES)
    held: HeldFile | None = hold(memory, b"x" * 2 * BLOCK_BYTES)
    assert not memory.reserve(1)
    assert held is not None
    file = open_file(held)
    held = None
    assert not memory.reserve(1)  # somebody still reads it
    assert file.read(3) == b"xxx"
    file.close()
    del file
    assert memory.reserve(2)


def test_every_file_gets_one_block() -> None:
    memory = Memory(0)
    for _ in range(3):
        assert not memory.reserve(1)
        assert memory.reserve(1, anyway=True)
        assert len(memory.take()) == BLOCK_BYTES


def test_what_was_reserved_and_not_taken_is_left_again() -> None:
    memory = Memory(3 * BLOCK_BYTES)
    assert memory.reserve(3)
    block = memory.take()
    assert not memory.reserve(1)
    memory.release([block], 2)
    assert memory.reserve(3)


def test_closing_leaves_the_blocks_that_somebody_holds() -> None:
    memory = Memory(2 * BLOCK_BYTES)
    held = hold(memory, b"x" * 2 * BLOCK_BYTES)
    memory.close()
    with open_file(held) as file:
        assert file.read(3) == b"xxx"
    Memory(0).close()
