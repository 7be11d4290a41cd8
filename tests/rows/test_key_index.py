"""The index finds every key, in memory or spilled to disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.rows import block, key_index, numpy_scan, scan, spill
from bulkpull.rows.key_index import ENTRY_BYTES, KeyIndex
from tests.rows.test_dedup import merge

KEYS = st.integers(0, 60) | st.integers(0, 2**64 - 1)
BATCHES = st.lists(st.tuples(st.lists(KEYS, max_size=40), st.booleans()), max_size=25)


@contextmanager
def small_index(directory: Path, rows: int, page: int) -> Iterator[KeyIndex]:
    """An index with so few rows in memory and in a page that it spills and merges after a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "PAGE_ROWS", page)
        patch.setattr(spill, "SLOT_PAGES", 2)
        patch.setattr(spill, "_READ_PAGES", 2)
        patch.setattr(spill, "_FOLDED_PAGES", 2)
        patch.setattr(key_index, "PAGE_ROWS", page)
        patch.setattr(key_index, "_FILTER_BYTES", 2 * page)
        patch.setattr(key_index, "_MIN_FILTER_BYTES", 1)
        index = KeyIndex(directory, rows * 3 * ENTRY_BYTES)
        yield index
        index.close()


def matches(index: KeyIndex, keys: list[int]) -> list[tuple[int, int]]:
    """Return the keys found, each with the offset of a row, in order."""
    asked = np.array(sorted(keys), np.uint64)
    hits, offsets = index.find(asked)
    return sorted(zip(asked[hits].tolist(), offsets.tolist(), strict=True))


@given(
    batches=BATCHES,
    asked=st.lists(KEYS, min_size=1),
    rows=st.integers(1, 40),
    page=st.sampled_from((2, 4, 8)),
    merged_per_added=st.integers(1, 16),
    in_order=st.booleans(),
)
def test_finds_the_same_rows_as_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[int], bool]],
    asked: list[int],
    rows: int,
    page: int,
    merged_per_added: int,
    in_order: bool,
) -> None:
    if in_order:
        every = iter(sorted(key for batch, _ in batches for key in batch))
        batches = [([next(every) for _ in batch], stays) for batch, stays in batches]
    expected: dict[int, list[int]] = {}
    end = 0
    with small_index(tmp_path_factory.getbasetemp(), rows, page) as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "_MERGED_PER_ADDED", merged_per_added)
        for batch, stays in batches:
            keys = sorted(batch)
            offsets = list(range(end, end + len(keys)))
            index.add(np.array(keys, np.uint64), np.array(offsets, np.int64))
            fresh = {key: [at for other, at in zip(keys, offsets, strict=True) if other == key] for key in keys}
            every_asked = sorted({*asked, *keys})
            known = [(key, at) for key in every_asked for at in (*expected.get(key, ()), *fresh.get(key, ()))]
            assert matches(index, every_asked) == sorted(known)
            if stays:
                index.keep()
                end += len(keys)
                for key in fresh:
                    expected.setdefault(key, []).extend(fresh[key])
            else:
                index.discard_fresh()
            known = [(key, at) for key in every_asked for at in expected.get(key, ())]
            assert matches(index, every_asked) == known


@pytest.mark.parametrize("batches_in_order", [True, False])
def test_finds_all_rows_whatever_the_number_of_runs(tmp_path: Path, batches_in_order: bool) -> None:
    random = np.random.default_rng(1)
    keys = random.integers(0, 2**64, 6000, np.uint64)
    keys[::50] = keys[0]
    if batches_in_order:
        keys.sort()
    with small_index(tmp_path, 100, 4) as index:
        for at in range(0, len(keys), 30):
            batch = keys[at : at + 30]
            order = np.argsort(batch, kind="stable")
            index.add(batch[order], order + at)
            index.keep()
        order = np.argsort(keys, kind="stable")
        assert matches(index, sorted(set(keys.tolist()))) == list(
            zip(keys[order].tolist(), order.tolist(), strict=True)
        )
        absent = random.integers(0, 2**64, 1000, np.uint64)
        assert not matches(index, absent.tolist())
        assert index.spilled_bytes <= 2 * ENTRY_BYTES * len(keys)


def test_reads_nothing_for_keys_above_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_index(tmp_path, 100, 4) as index:
        monkeypatch.setattr(spill.SpillFile, "read", None)
        monkeypatch.setattr(spill.SpillFile, "read_spans", None)
        for at in range(0, 3000, 30):
            keys = np.arange(at, at + 30, dtype=np.uint64)
            assert not len(index.find(keys)[0])
            index.add(keys, np.arange(at, at + 30))
            index.keep()
        assert index.spilled_bytes >= ENTRY_BYTES * 2800


def test_makes_no_filter_until_it_would_have_paid(tmp_path: Path) -> None:
    with small_index(tmp_path, 100, 4) as index:
        keys = np.arange(0, 6000, 2, dtype=np.uint64)
        for at in range(0, len(keys), 30):
            index.add(keys[at : at + 30], np.arange(at, at + 30))
        assert [run.filter_bytes for run in index._spilled] == [0]
        odd = list(range(1, 2000, 2))
        for _ in range(3):
            assert not matches(index, odd)
        (run,) = index._spilled
        assert run.filter_bytes >= 2 * run.pages
        assert matches(index, [*odd, 4, 1000, 5000]) == [(4, 2), (1000, 500), (5000, 2500)]
        more = np.arange(6000, 6400, dtype=np.uint64)
        index.add(more, np.arange(6000, 6400))
        assert matches(index, [4, 6001, 6399]) == [(4, 2), (6001, 6001), (6399, 6399)]


def test_discards_rows_that_were_spilled_and_merged(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    kept, discarded, again = (np.sort(random.integers(0, 2**64, 600, np.uint64)) for _ in range(3))
    with small_index(tmp_path, 50, 4) as index:
        index.add(kept.copy(), np.arange(600))
        index.keep()
        for part in np.split(random.permutation(discarded), 60):
            index.add(np.sort(part), np.arange(600, 610))
        index.discard_fresh()
        assert not matches(index, discarded.tolist())
        for at, part in enumerate(np.split(random.permutation(again), 60)):
            index.add(np.sort(part), np.arange(600 + 10 * at, 610 + 10 * at))
        assert not matches(index, discarded.tolist())
        assert [key for key, _ in matches(index, again.tolist())] == again.tolist()
        assert [key for key, _ in matches(index, kept.tolist())] == kept.tolist()


def test_merges_runs_of_discarded_rows_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    with small_index(tmp_path, 50, 4) as index:
        monkeypatch.setattr(key_index, "_MERGED_PER_ADDED", 0)
        for at in range(0, 500, 10):
            index.add(np.sort(random.integers(0, 2**64, 10, np.uint64)), np.arange(at, at + 10))
        index.discard_fresh()
        monkeypatch.setattr(key_index, "_MERGED_PER_ADDED", 1000)
        for at in range(500, 1000, 10):
            keys = np.sort(random.integers(0, 2**64, 10, np.uint64))
            index.add(keys.copy(), np.arange(at, at + 10))
            assert not matches(index, [0])
            assert matches(index, keys.tolist()) == list(zip(keys.tolist(), range(at, at + 10), strict=True))


def test_spills_rows_above_all_others_during_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(1).permutation(400).astype(np.uint64)
    keys = np.concatenate((keys, np.arange(400, 1000, dtype=np.uint64)))
    monkeypatch.setattr(key_index, "_MERGED_PER_ADDED", 1)
    with small_index(tmp_path, 20, 2) as index:
        for at in range(0, 1000, 10):
            order = np.argsort(keys[at : at + 10])
            index.add(keys[at : at + 10][order], order + at)
            assert [key for key, _ in matches(index, keys.tolist())] == sorted(keys[: at + 10].tolist())


def test_finds_each_row_once_at_any_moment_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "PAGE_ROWS", 4)
    monkeypatch.setattr(spill, "SLOT_PAGES", 2)
    file = spill.SpillFile(tmp_path)
    keys = np.sort(np.arange(90, dtype=np.uint64) // np.uint64(15))  # equal keys fill more than a slot
    runs = [spill.SpilledRun(file, 16), spill.SpilledRun(file, 16), spill.SpilledRun(file, 16, 180)]
    runs[0].append(keys, np.arange(90))
    runs[1].append(keys, np.arange(90, 180))
    asked = np.arange(6, dtype=np.uint64)
    steps = 0
    for _ in spill.merge_spilled(runs[:2], runs[2]):
        steps += 1
        found = [offset for run in runs if len(run) for _, offsets in run.find(asked) for offset in offsets.tolist()]
        assert sorted(found) == list(range(180))
    assert steps > 10
    file.close()


def test_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", write)
    with small_index(tmp_path, 10, 4) as index, pytest.raises(OSError, match="No space left"):
        index.add(np.arange(100, dtype=np.uint64), np.arange(100))


def test_distinguishes_ids_whose_keys_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only four distinct keys, the ids themselves decide what is a repeat."""
    original = block.compute_keys
    for module in (scan, numpy_scan):
        monkeypatch.setattr(module, "compute_keys", lambda ids: original(ids) & np.uint64(3))
    monkeypatch.setattr(scan, "FAST_BUFFER", numpy_scan.NumpyBuffer)
    rows = [f"{number % 37:024x},{number % 5}" for number in range(200)]
    quoted = [f'"{number % 41:024x}",{number % 5}' for number in range(100)]
    parts = ["\n".join(["id,v", *lines]).encode() for lines in (rows[:120], rows[120:], quoted)]
    output, merged = merge(tmp_path, *parts, columns=("id", "v"))
    first: dict[int, int] = {}
    conflicts = 0
    for number, id in [*((n, n % 37) for n in range(200)), *((n, n % 41) for n in range(100))]:
        conflicts += first.setdefault(id, number % 5) != number % 5
    ids = [line.split(b",")[0].strip(b'"') for line in output.splitlines()[1:]]
    assert [int(id, 16) for id in ids] == list(first)
    assert sum(part.conflicts for part in merged) == conflicts
    assert sum(part.duplicates for part in merged) == 300 - 41


def test_merges_correctly_with_almost_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "ENTRY_BYTES", 10**6)  # so that a few rows are too many
    monkeypatch.setattr(scan, "BLOCK_BYTES", 4096)
    ids = [f"{number * 7919 % 3001:024x}" for number in range(6000)]
    parts = [
        "\n".join(["id,v", *(f"{id},{id[-2:]}" for id in ids[at : at + 1000])]).encode() for at in range(0, 6000, 1000)
    ]
    output, merged = merge(tmp_path, *parts, columns=("id", "v"))
    assert [line.split(b",")[0].decode() for line in output.splitlines()[1:]] == list(dict.fromkeys(ids))
    assert sum(part.duplicates for part in merged) == 6000 - 3001
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("part")) == ["output"]
