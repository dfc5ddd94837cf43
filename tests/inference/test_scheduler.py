"""The plan of slots and memory, against its own rules, for any requests in any order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu3.errors import InputError
from emu3.inference.requests import EngineFull
from emu3.inference.scheduler import Scheduler


@dataclass(eq=False)
class Asked:
    key: str
    rows: int
    room: int


ASKED = st.builds(Asked, st.sampled_from("ab"), st.integers(1, 2), st.integers(1, 30))


@given(st.lists(ASKED, max_size=20), st.integers(1, 5), st.integers(60, 150), st.data())
def test_all_are_let_in_once_in_order_and_never_too_many(
    asked: list[Asked], slots: int, places: int, data: st.DataObject
) -> None:
    scheduler: Scheduler[Asked] = Scheduler(queue=20, slots=slots, places=places)
    for each in asked:
        scheduler.offer(each)
    served = []
    while scheduler.waiting or scheduler.active:
        served += scheduler.admit()
        assert scheduler.active
        assert len(scheduler.active) <= slots
        assert scheduler.places <= places
        for key in "ab":
            held = [each for each in scheduler.active if each.key == key]
            if held:
                rectangle = sum(each.rows for each in held) * max(each.room for each in held)
                assert scheduler.caches[key].places >= rectangle
        scheduler.leave(data.draw(st.sampled_from(scheduler.active)))
    assert served == asked
    assert not scheduler.caches


def test_the_queue_is_bounded_and_impossible_things_never_wait() -> None:
    scheduler: Scheduler[Asked] = Scheduler(queue=1, slots=1, places=10)
    with pytest.raises(InputError, match="2 x 6 places"):
        scheduler.offer(Asked("a", 2, 6))
    scheduler.offer(Asked("a", 2, 5))
    with pytest.raises(EngineFull, match="1 requests"):
        scheduler.offer(Asked("a", 1, 1))


def test_one_that_leaves_the_queue_was_never_there() -> None:
    scheduler: Scheduler[Asked] = Scheduler(queue=2, slots=1, places=10)
    gone, stays = Asked("a", 1, 5), Asked("a", 1, 5)
    scheduler.offer(gone)
    scheduler.offer(stays)
    scheduler.leave(gone)
    assert scheduler.admit() == [stays]


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Scheduler(0, 1, 1)
