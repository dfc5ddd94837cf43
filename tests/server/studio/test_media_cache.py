"""The media cache keeps the newest files within its limit, under names that cannot be guessed."""

from __future__ import annotations

from emu3.server.studio.media_cache import MediaCache


def test_oldest_files_are_dropped_first() -> None:
    cache = MediaCache(max_bytes=100)
    urls = [cache.put(bytes([n]) * 40, "image/png", ".png") for n in range(4)]
    files = [cache.get("/" + url) for url in urls]
    assert files[0] is None
    assert files[1] is None
    assert [file.data[0] for file in files[2:] if file is not None] == [2, 3]
    assert len(set(urls)) == 4
    assert all(len(url) > 30 for url in urls)


def test_file_above_the_limit_is_kept_alone() -> None:
    cache = MediaCache(max_bytes=10)
    first = cache.put(b"x", "image/png", ".png")
    second = cache.put(b"y" * 50, "image/png", ".png")
    assert cache.get("/" + first) is None
    assert cache.get("/" + second) is not None


def test_unknown_paths_return_none() -> None:
    cache = MediaCache()
    cache.put(b"x", "image/png", ".png")
    assert cache.get("/studio/media/") is None
    assert cache.get("/studio/media/../x.png") is None
