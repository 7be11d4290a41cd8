"""A partial file has the bytes that were appended, wherever they were received and whatever was written meanwhile."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.download import file as partial_file
from bulkpull.download.file import PartialFile, Record, open_partial
from bulkpull.download.memory_queue import MemoryQueue
from bulkpull.download.protocols import Downloaded, Version
from bulkpull.rows import held_file
from bulkpull.rows.held_file import Memory

BLOCK = 8
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3 * BLOCK)),
        st.tuples(st.just("receive"), st.integers(1, BLOCK)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 9 * BLOCK)),
    ),
    max_size=20,
)


class Checkpoints:
    """Records nothing."""

    def save_partial(self, version: Version) -> None:
        """A no-op."""

    def save_complete(self, downloaded: Downloaded) -> None:
        """A no-op."""


async def fill(file: PartialFile, steps: list[tuple[str, int]]) -> bytes:
    """Do what the steps say with a file; return the bytes that it should have."""
    expected = b""
    for number, (step, size) in enumerate(steps):
        chunk = bytes((number * 31 + at) % 251 + 1 for at in range(size))
        if step == "append":
            await file.append(chunk)
            expected += chunk
        elif step == "receive":
            room = await file.room()
            chunk = chunk[: len(room)]
            room[: len(chunk)] = chunk
            await file.append(room[: len(chunk)])
            expected += chunk
        elif step == "flush":
            await file.flush()
        else:
            await file.restart(Version(length=size or None))
            expected = b""
    return expected


@given(steps=STEPS, blocks=st.integers(0, 5))
def test_has_the_bytes_that_were_appended(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], blocks: int
) -> None:
    path = tmp_path_factory.mktemp("file") / "part"

    async def main() -> tuple[bytes, bytes]:
        memory = Memory(blocks * BLOCK)
        async with open_partial(path, Record(Checkpoints(), Version()), MemoryQueue(memory)) as file:
            expected = await fill(file, steps)
            await file.flush(is_last=True)
            assert file.offset == len(expected)
            held = file.take()
            found = b"".join(held.pieces) if held else path.read_bytes() if path.exists() else b""
        del held
        assert all(memory.reserve(1) for _ in range(blocks))
        assert not memory.reserve(1)
        memory.close()
        return expected, found

    with pytest.MonkeyPatch.context() as patch:
        for module in (partial_file, held_file):
            patch.setattr(module, "BLOCK_BYTES", BLOCK)
        expected, found = anyio.run(main)
    assert found == expected


async def test_what_is_received_is_not_copied(tmp_path: Path) -> None:
    async with open_partial(tmp_path / "part", Record(Checkpoints(), Version()), MemoryQueue(Memory(0))) as file:
        room = await file.room()
        room[:3] = b"abc"
        await file.append(room[:3])
        room[1:2] = b"x"
        held = file.take()
        assert held
        assert b"".join(held.pieces) == b"axc"
