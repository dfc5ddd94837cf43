"""Pictures and clips that pages show: in memory, the newest of them, each behind a long name."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

MOST = 256 * 2**20  # bytes of all together
PATH = "/studio/shelf/"


@dataclass(frozen=True)
class Thing:
    """A file's bytes and its media type."""

    data: bytes
    kind: str


class Shelf:
    """What is put here stays until newer things need its room."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._things: OrderedDict[str, Thing] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def put(self, data: bytes, kind: str, suffix: str) -> str:
        """Keep a file; its address, which nobody can guess, relative to the page."""
        name = secrets.token_urlsafe(16) + suffix
        with self._lock:
            self._things[name] = Thing(data, kind)
            self._bytes += len(data)
            while self._bytes > self.most and len(self._things) > 1:
                _, old = self._things.popitem(last=False)
                self._bytes -= len(old.data)
        return PATH.removeprefix("/") + name

    def get(self, path: str) -> Thing | None:
        """What lies behind the path of a request, or None where it is gone."""
        with self._lock:
            return self._things.get(path.removeprefix(PATH))
