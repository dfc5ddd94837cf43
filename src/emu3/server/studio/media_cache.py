"""An in-memory cache of the images and videos that open pages show."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

MAX_BYTES = 256 * 2**20  # of all files together
MEDIA_PATH = "/studio/media/"


@dataclass(frozen=True)
class MediaFile:
    """The content of a file and its media type, such as `image/png`."""

    data: bytes
    media_type: str


class MediaCache:
    """Files under random names. When the total exceeds `max_bytes`, the oldest are dropped.

    The newest file is always kept, even if it exceeds `max_bytes` alone. Thread-safe.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._files: OrderedDict[str, MediaFile] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def put(self, data: bytes, media_type: str, suffix: str) -> str:
        """Add a file and return its URL relative to `/`, which contains 128 random bits."""
        name = secrets.token_urlsafe(16) + suffix
        with self._lock:
            self._files[name] = MediaFile(data, media_type)
            self._bytes += len(data)
            while self._bytes > self.max_bytes and len(self._files) > 1:
                _, oldest = self._files.popitem(last=False)
                self._bytes -= len(oldest.data)
        return MEDIA_PATH.removeprefix("/") + name

    def get(self, path: str) -> MediaFile | None:
        """Return the file at the path of a request, or None if it was dropped or never existed."""
        with self._lock:
            return self._files.get(path.removeprefix(MEDIA_PATH))
