"""The shelf holds the newest, within its bound, and hands out names that cannot be guessed."""

from __future__ import annotations

from emu3.server.studio.media_cache import Shelf


def test_what_was_put_is_found_and_the_oldest_goes_first() -> None:
    shelf = Shelf(most=100)
    urls = [shelf.put(bytes([n]) * 40, "image/png", ".png") for n in range(4)]
    found = [shelf.get("/" + url) for url in urls]
    assert found[0] is None
    assert found[1] is None
    assert [thing.data[0] for thing in found[2:] if thing is not None] == [2, 3]
    assert len(set(urls)) == 4
    assert all(len(url) > 30 for url in urls)


def test_one_that_is_too_large_is_held_alone() -> None:
    shelf = Shelf(most=10)
    shelf.put(b"x", "image/png", ".png")
    url = shelf.put(b"y" * 50, "image/png", ".png")
    assert shelf.get("/" + url) is not None


def test_no_other_path_leads_to_it() -> None:
    shelf = Shelf()
    shelf.put(b"x", "image/png", ".png")
    assert shelf.get("/studio/shelf/") is None
    assert shelf.get("/studio/shelf/../x.png") is None
