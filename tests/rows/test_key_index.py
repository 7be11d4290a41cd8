"""The index finds every key, in memory or spilled to disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkpull.rows import block, key_index, numpy_scan, scan
from bulkpull.rows.key_index import ENTRY_BYTES, KeyIndex
from tests.rows.test_dedup import merge

BATCHES = st.lists(
    st.tuples(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 60), max_size=30), st.booleans()), max_size=12
)


@given(
    batches=BATCHES, asked=st.lists(st.integers(0, 60), min_size=1), memory=st.integers(0, 400), fence=st.integers(1, 9)
)
def test_finds_the_same_rows_as_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[int], bool]],
    asked: list[int],
    memory: int,
    fence: int,
) -> None:
    expected: dict[int, list[int]] = {}
    place = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "_FENCE_INTERVAL", fence)
        patch.setattr(key_index, "_READ_ROWS", 2 * fence)
        known = KeyIndex(tmp_path_factory.getbasetemp(), memory * ENTRY_BYTES // 8)
        for batch, stays in batches:
            places = np.arange(place, place + len(batch))
            place += len(batch)
            known.add(np.array(sorted(batch), np.uint64), places)
            if stays:
                known.keep()
                for key, at in zip(sorted(batch), places.tolist(), strict=True):
                    expected.setdefault(key, []).append(at)
            else:
                known.discard_fresh()
        keys = np.array(sorted(asked), np.uint64)
        hits, places = known.find(keys)
        known.close()
    found = sorted(zip(hits.tolist(), places.tolist(), strict=True))
    assert sorted(set(found)) == sorted(
        (index, at) for index, key in enumerate(sorted(asked)) for at in expected.get(key, [])
    )


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
