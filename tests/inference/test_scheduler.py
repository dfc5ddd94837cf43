"""The scheduler's limits, for any requests in any order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu3.errors import InputError
from emu3.inference.events import EngineFull
from emu3.inference.scheduler import Scheduler


@dataclass(eq=False)
class Request:
    num_rows: int
    kv_tokens_per_row: int


REQUESTS = st.builds(Request, st.integers(0, 2), st.integers(1, 30))


@given(st.lists(REQUESTS, max_size=20), st.integers(1, 5), st.integers(60, 150), st.data())
def test_all_are_admitted_once_in_order_within_the_limits(
    requests: list[Request], max_running: int, limit: int, data: st.DataObject
) -> None:
    scheduler: Scheduler[Request] = Scheduler(20, max_running, limit)
    for request in requests:
        scheduler.enqueue(request)
    served = []
    while scheduler.waiting or scheduler.running:
        served += scheduler.admit()
        assert scheduler.running
        assert len(scheduler.running) <= max_running
        rows = sum(each.num_rows for each in scheduler.running)
        width = max(
            (each.kv_tokens_per_row for each in scheduler.running if each.num_rows), default=0
        )
        assert rows * width <= scheduler.kv_cache_tokens <= limit
        scheduler.release(data.draw(st.sampled_from(scheduler.running)))
    assert served == requests
    assert scheduler.kv_cache_tokens == 0


def test_the_queue_is_bounded_and_impossible_requests_never_wait() -> None:
    scheduler: Scheduler[Request] = Scheduler(1, 1, 10)
    with pytest.raises(InputError, match="needs 12 KV-cache tokens"):
        scheduler.enqueue(Request(2, 6))
    scheduler.enqueue(Request(2, 5))
    with pytest.raises(EngineFull, match="1 requests"):
        scheduler.enqueue(Request(1, 1))


def test_a_request_that_leaves_the_queue_holds_nothing() -> None:
    scheduler: Scheduler[Request] = Scheduler(2, 1, 10)
    gone, stays = Request(1, 5), Request(1, 5)
    scheduler.enqueue(gone)
    scheduler.enqueue(stays)
    scheduler.release(gone)
    assert scheduler.admit() == [stays]


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Scheduler(0, 1, 1)
