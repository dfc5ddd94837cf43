"""Who comes next: a bounded queue, so many slots, and a plan of the caches' memory.

The length of a picture is known before it starts, and that of an answer has a bound, so whoever is
let in can be finished: nobody is ever thrown out for want of memory. A cache is a rectangle, rows
times places, and keeps its width until its last row leaves; the plan counts it so.

First come, first served: one that does not fit yet holds back those behind it, or it might wait
forever. Knows no tensors and no threads; the runner holds a lock around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from emu3.errors import InputError
from emu3.inference.requests import EngineFull


class Planned(Protocol):
    """What the plan must know of a request."""

    @property
    def key(self) -> Hashable:
        """Requests of one key share a cache."""

    @property
    def rows(self) -> int:
        """Rows of the cache that it takes."""

    @property
    def room(self) -> int:
        """Places that each of them needs."""


J = TypeVar("J", bound=Planned)


@dataclass
class Held:
    """A cache as planned."""

    rows: int = 0
    room: int = 0

    @property
    def places(self) -> int:
        """Places in all of its rows."""
        return self.rows * self.room

    def more(self, job: Planned) -> int:
        """Places to be added for one more."""
        return (self.rows + job.rows) * max(self.room, job.room) - self.places


class Scheduler(Generic[J]):
    """At most `queue` wait, `slots` are at work, and all caches have at most `places`."""

    def __init__(self, queue: int, slots: int, places: int) -> None:
        if min(queue, slots, places) < 1:
            raise InputError(f"queue {queue}, slots {slots}, places {places}: all at least 1")
        self.queue, self.slots, self.most = queue, slots, places
        self.waiting: deque[J] = deque()
        self.active: list[J] = []
        self.caches: dict[Hashable, Held] = {}

    @property
    def places(self) -> int:
        """Places planned for those at work."""
        return sum(held.places for held in self.caches.values())

    def check(self, job: Planned) -> None:
        """Raise InputError where it can never be let in."""
        if Held().more(job) > self.most:
            raise InputError(
                f"{job.rows} x {job.room} places of cache are needed, there are {self.most}; "
                "ask for something smaller"
            )

    def offer(self, job: J) -> None:
        """Queue up. Raises EngineFull without room, InputError where it can never be let in."""
        self.check(job)
        if len(self.waiting) >= self.queue:
            raise EngineFull(f"{len(self.waiting)} requests are waiting already; come back later")
        self.waiting.append(job)

    def admit(self) -> list[J]:
        """Let in those that fit, from the front of the queue."""
        fresh = []
        while self.waiting and len(self.active) < self.slots:
            job = self.waiting[0]
            held = self.caches.get(job.key, Held())
            if self.places + held.more(job) > self.most:
                break
            held.rows, held.room = held.rows + job.rows, max(held.room, job.room)
            self.caches[job.key] = held
            fresh.append(self.waiting.popleft())
            self.active.append(job)
        return fresh

    def leave(self, job: J) -> None:
        """Free the place of one at work, or waiting."""
        if job in self.waiting:
            self.waiting.remove(job)
            return
        self.active.remove(job)
        held = self.caches[job.key]
        held.rows -= job.rows
        if not held.rows:
            del self.caches[job.key]
