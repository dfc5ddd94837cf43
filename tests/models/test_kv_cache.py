"""Rows come and go in place, and what is left of a cache is what was put in."""

from __future__ import annotations

import random

import torch

from emu3.models.kv_cache import KVCache, compaction_order
from emu3.testing import tiny_decoder


def filled(rows: int, length: int, capacity: int = 6) -> KVCache:
    cache = tiny_decoder().new_cache(rows, capacity)
    for held in (cache.keys, cache.values):
        held[:, :, :, :length] = torch.rand(*held.shape[:3], length, held.shape[4])
    cache.truncate([length] * rows)
    return cache


def test_compaction_fills_gaps_from_the_end() -> None:
    assert compaction_order(5, [1, 3]) == [0, 4, 2]
    assert compaction_order(5, [3, 4]) == [0, 1, 2]
    assert compaction_order(3, []) == [0, 1, 2]
    assert compaction_order(3, [0, 1, 2]) == []
    for gone in ({0}, {0, 1, 6}, {5, 6}):
        assert sorted(compaction_order(7, gone)) == sorted(set(range(7)) - gone)


def test_joining_and_leaving_rows_leave_others_untouched() -> None:
    chance, cache = random.Random(0), filled(3, 4)
    there = list(cache.keys.clone().unbind(1))
    for _ in range(60):
        if len(there) > 1 and chance.random() < 0.5:
            gone = chance.sample(range(len(there)), chance.randrange(1, len(there)))
            rows = compaction_order(len(there), gone)
            if chance.random() < 0.3:
                chance.shuffle(rows)  # any other order may be asked for too
            cache.select_rows(rows)
            there = [there[row] for row in rows]
        else:
            other = filled(chance.randrange(1, 4), chance.randrange(1, 6))
            there += other.keys.clone().unbind(1)
            cache.append_rows(other)
        assert torch.equal(cache.keys, torch.stack(there, dim=1))
        assert len(cache.lengths) == len(there) == cache.values.shape[1]


def test_spare_rows_are_reused_and_bounded() -> None:
    cache = filled(8, 4)
    place, whole = cache.keys.data_ptr(), cache.keys.untyped_storage().nbytes()
    cache.select_rows(compaction_order(8, [2, 5]))
    cache.append_rows(filled(2, 3))
    assert cache.keys.data_ptr() == place
    cache.select_rows(compaction_order(8, range(1, 8)))
    assert cache.keys.untyped_storage().nbytes() == whole // 8


def test_stale_rows_are_not_visible() -> None:
    cache = filled(3, 4)
    cache.keys[:, 1] = torch.nan
    cache.select_rows(compaction_order(3, [1]))
    cache.append_rows(filled(1, 2))
    assert not cache.keys.isnan().any()
