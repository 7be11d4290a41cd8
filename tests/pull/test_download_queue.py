"""Downloads start in the order of the merge, whatever order they come in, and none is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.pull.download_queue import DownloadQueue
from bulkpull.window import Window

START = datetime(2024, 1, 1, tzinfo=UTC)


def window(number: int) -> Window:
    return Window(number, START + timedelta(days=number), START + timedelta(days=number + 1))


class Downloads:
    """Downloads that wait in a queue for `slots`, and end when they are told to."""

    def __init__(self, slots: int) -> None:
        self.limiter = anyio.CapacityLimiter(slots)
        self.is_full = False
        self.held_back: list[int] = []
        self.queue = DownloadQueue(self.limiter, self._may_start, lambda window: self.held_back.append(window.index))
        self.started: list[tuple[int, int]] = []
        self.scopes: dict[tuple[int, int], anyio.CancelScope] = {}
        self.ends: dict[tuple[int, int], anyio.Event] = {}

    def _may_start(self, _window: Window) -> bool:
        return not self.is_full

    async def run(self, number: int, part: int = 1) -> None:
        with anyio.CancelScope() as self.scopes[number, part]:
            async with self.queue.slot(window(number), part):
                self.started.append((number, part))
                end = self.ends[number, part] = anyio.Event()
                await end.wait()


async def settle() -> None:
    for _ in range(20):
        await checkpoint()


async def test_parts_start_in_the_order_of_the_merge() -> None:
    downloads = Downloads(1)
    async with anyio.create_task_group() as group:
        for number, part in ((5, 1), (3, 2), (4, 1), (3, 1), (1, 1)):
            group.start_soon(downloads.run, number, part)
            await settle()
        for _ in range(5):
            downloads.ends[downloads.started[-1]].set()
            await settle()
    assert downloads.started == [(5, 1), (1, 1), (3, 1), (3, 2), (4, 1)]


async def test_those_that_were_held_back_do_not_lose_their_places() -> None:
    downloads = Downloads(2)
    async with anyio.create_task_group() as group:
        for number in (1, 2, 4, 5, 6):
            group.start_soon(downloads.run, number)
            await settle()
        downloads.is_full = True
        for number in (1, 2):
            downloads.ends[number, 1].set()
            await settle()
        assert downloads.started == [(1, 1), (2, 1)]
        assert downloads.held_back[0] == 4
        assert downloads.limiter.available_tokens == 2
        group.start_soon(downloads.run, 3)
        await settle()
        downloads.is_full = False
        downloads.queue.look_again()
        await settle()
        assert downloads.started[2:] == [(3, 1), (4, 1)]
        for number in (3, 4, 5, 6):
            downloads.ends[number, 1].set()
            await settle()
    assert downloads.started[4:] == [(5, 1), (6, 1)]


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["add", "end", "cancel", "full", "free"]), st.integers(0, 30)), max_size=40),
)
def test_every_download_starts_unless_it_is_cancelled(slots: int, steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        downloads = Downloads(slots)
        cancelled: set[tuple[int, int]] = set()
        async with anyio.create_task_group() as group:
            for kind, number in steps:
                place = (number, 1)
                if kind == "add" and place not in downloads.scopes:
                    group.start_soon(downloads.run, number)
                elif kind == "end" and place in downloads.ends:
                    downloads.ends[place].set()
                elif kind == "cancel" and place in downloads.scopes and place not in downloads.started:
                    downloads.scopes[place].cancel()
                    cancelled.add(place)
                elif kind in ("full", "free"):
                    downloads.is_full = kind == "full"
                    downloads.queue.look_again()
                await settle()
                waiting = downloads.scopes.keys() - set(downloads.started) - cancelled
                if waiting and not downloads.is_full:
                    assert downloads.limiter.available_tokens == 0
            downloads.is_full = False
            downloads.queue.look_again()
            for _ in range(2 * len(steps)):
                for end in list(downloads.ends.values()):
                    end.set()
                await settle()
        assert set(downloads.started) | cancelled == downloads.scopes.keys()
        assert len(set(downloads.started)) == len(downloads.started)
        assert downloads.limiter.available_tokens == slots

    anyio.run(main)
