"""The clients of `benchmarks.soak` hear what they should, and its promises can be broken."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from benchmarks.clients import FILM, KINDS, WRONG, numbers, told, unfinished, vanish, wrong
from benchmarks.soak import WORK, Counts, Memory, promises
from emu3.server.settings import Settings

from .conftest import moving_checkpoint, serving

ENGINE = (*WORK, "kv_cache_tokens")
TOO_MANY = 'emu3_http_requests_total{route="/v1/videos",status="429"}'


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server without a key, of a model that knows videos."""
    settings = Settings(model="tiny", max_tokens=16, jobs=tmp_path_factory.mktemp("jobs"))
    with serving(settings, moving_checkpoint(), max_waiting=8, max_running=4) as server:
        yield urlsplit(server.url).port or 0


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("vanish", "wrong")])
def test_each_kind_is_answered(port: int, kind: str) -> None:
    assert KINDS[kind].act(port, 7) == ("answered", "")


def test_each_wrong_body_is_told_so(port: int) -> None:
    for seed in range(len(WRONG)):
        assert wrong(port, seed) == ("corrected", "")


def statuses(port: int) -> dict[str, float]:
    told = numbers(port)
    return {name: n for name, n in told.items() if name.startswith("emu3_http_requests")}


def test_who_goes_in_the_middle_of_a_body_is_no_bug(port: int) -> None:
    before = sum(n for name, n in statuses(port).items() if 'status="499"' in name)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    after = before
    while after == before:
        time.sleep(0.01)
        after = sum(n for name, n in statuses(port).items() if 'status="499"' in name)
    assert not any('status="5' in name for name in statuses(port))


def test_whoever_vanishes_leaves_nothing(port: int) -> None:
    for seed in range(8):
        assert vanish(port, seed) == ("gone", "")
    while any(numbers(port)[f"emu3_engine_{name}"] for name in ENGINE):
        time.sleep(0.01)
    assert not any('status="5' in name for name in statuses(port))


@pytest.mark.parametrize(("seed", "kept"), [(1, 1), (3, 0)])
def test_a_video_is_left_or_given_up(port: int, seed: int, kept: int) -> None:
    before = len(told(port, "GET", FILM)["data"])
    assert KINDS["video"].act(port, seed) == ("gone", "")
    while unfinished(port):
        time.sleep(0.01)
    assert len(told(port, "GET", FILM)["data"]) == before + kept


def figures(refused: float = 2, **changes: float) -> dict[str, float]:
    names = (
        "finished_images",
        "finished_videos",
        "finished_chats",
        "failed",
        "cancelled",
        "refused",
    )
    numbers = {f"emu3_engine_{name}_total": 0.0 for name in names} | {TOO_MANY: refused}
    numbers |= {f"emu3_engine_{name}": 0.0 for name in ENGINE}
    return numbers | {f"emu3_engine_{name}": value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        (figures(finished_images_total=3, cancelled_total=1, refused_total=2), None),
        (
            figures(
                finished_images_total=2, finished_videos_total=1, cancelled_total=1, refused_total=2
            ),
            None,
        ),
        (figures(finished_images_total=2, cancelled_total=1, refused_total=2), "accepted"),
        (figures(finished_images_total=3, cancelled_total=3, refused_total=2), "accepted"),
        (
            figures(finished_images_total=3, cancelled_total=1, refused_total=2, refused=1),
            "refused",
        ),
        (
            figures(finished_images_total=3, cancelled_total=1, refused_total=2, failed_total=1),
            "5xx",
        ),
        (
            figures(finished_images_total=3, cancelled_total=1, refused_total=2, kv_cache_tokens=9),
            "holds nothing",
        ),
    ],
)
def test_a_promise_can_be_broken(after: dict[str, float], broken: str | None) -> None:
    counts = Counts()
    for outcome, times in (("answered", 3), ("gone", 1), ("refused", 2)):
        for _ in range(times):
            counts.count("x", lambda outcome=outcome: (outcome, ""))
    kept = promises(counts, figures(0), after, 0, 0.01)
    assert [name for name, how in kept.items() if not how and (not broken or broken in name)] == [
        name for name in kept if broken and broken in name
    ]


def test_a_video_left_unmade_breaks_a_promise() -> None:
    kept = promises(Counts(), figures(0), figures(refused_total=1), 1, 0)
    assert [name for name, how in kept.items() if not how] == [
        name for name in kept if "video" in name
    ]


def test_memory_is_looked_at_after_the_warm_up() -> None:
    flat = Memory(0, [(at, 100.0 + 50 * (at < 10)) for at in range(100)])
    assert flat.growth(100) == 0
    assert Memory(0, [(at, 100.0 + at) for at in range(100)]).growth(100) > 0.2
