"""The clients and the checks of `benchmarks.soak`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from benchmarks.clients import (
    INVALID,
    KINDS,
    VIDEOS,
    disconnect,
    get_json,
    invalid,
    read_metrics,
    unfinished,
)
from benchmarks.soak import GAUGES, Counts, Memory, conditions
from emu3.server.settings import Settings

from .conftest import serving, video_checkpoint

ENGINE_GAUGES = (*GAUGES, "emu3_kv_cache_tokens")
TOO_MANY = 'emu3_http_requests_total{route="/v1/videos",status="429"}'


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server without an API key, with a model that generates videos."""
    settings = Settings(model="tiny", max_tokens=16, jobs=tmp_path_factory.mktemp("jobs"))
    with serving(settings, video_checkpoint(), max_waiting=8, max_running=4) as server:
        yield urlsplit(server.url).port or 0


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("disconnect", "invalid")])
def test_clients_are_answered(port: int, kind: str) -> None:
    assert KINDS[kind].act(port, 7) == ("answered", "")


def test_invalid_bodies_are_refused(port: int) -> None:
    for seed in range(len(INVALID)):
        assert invalid(port, seed) == ("corrected", "")


def statuses(port: int) -> dict[str, float]:
    return {
        name: n
        for name, n in read_metrics(port).items()
        if name.startswith("emu3_http_requests_total")
    }


def test_disconnecting_in_the_middle_of_a_body_is_499(port: int) -> None:
    before = sum(n for name, n in statuses(port).items() if 'status="499"' in name)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    after = before
    while after == before:
        time.sleep(0.01)
        after = sum(n for name, n in statuses(port).items() if 'status="499"' in name)
    assert not any('status="5' in name for name in statuses(port))


def test_disconnecting_leaves_nothing_in_the_engine(port: int) -> None:
    for seed in range(8):
        assert disconnect(port, seed) == ("gone", "")
    while any(read_metrics(port)[name] for name in ENGINE_GAUGES):
        time.sleep(0.01)
    assert not any('status="5' in name for name in statuses(port))


@pytest.mark.parametrize(("seed", "kept"), [(1, 1), (3, 0)])
def test_abandoned_and_deleted_videos(port: int, seed: int, kept: int) -> None:
    before = len(get_json(port, "GET", VIDEOS)["data"])
    assert KINDS["video"].act(port, seed) == ("gone", "")
    while unfinished(port):
        time.sleep(0.01)
    assert len(get_json(port, "GET", VIDEOS)["data"]) == before + kept


def metrics(http_429: float = 2, kv_cache_tokens: float = 0, **outcomes: float) -> dict[str, float]:
    return {
        TOO_MANY: http_429,
        **dict.fromkeys(GAUGES, 0.0),
        "emu3_kv_cache_tokens": kv_cache_tokens,
        **{
            f'emu3_requests_total{{kind="image",outcome="{outcome}"}}': n
            for outcome, n in outcomes.items()
        },
    }


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        (metrics(completed=3, cancelled=1, rejected=2), None),
        (metrics(completed=2, cancelled=1, rejected=2), "accepted"),
        (metrics(completed=3, cancelled=3, rejected=2), "accepted"),
        (metrics(completed=3, cancelled=1, rejected=2, http_429=1), "refused"),
        (metrics(completed=3, cancelled=1, rejected=2, failed=1), "5xx"),
        (metrics(completed=3, cancelled=1, rejected=2, kv_cache_tokens=9), "holds nothing"),
    ],
)
def test_conditions(after: dict[str, float], broken: str | None) -> None:
    counts = Counts()
    for outcome, times in (("answered", 3), ("gone", 1), ("refused", 2)):
        for _ in range(times):
            counts.count("x", lambda outcome=outcome: (outcome, ""))
    holds = conditions(counts, metrics(http_429=0), after, 0, 0.01)
    assert [name for name, how in holds.items() if not how and (not broken or broken in name)] == [
        name for name in holds if broken and broken in name
    ]


def test_an_unfinished_video_breaks_a_condition() -> None:
    holds = conditions(Counts(), metrics(http_429=0), metrics(rejected=1), 1, 0)
    assert [name for name, how in holds.items() if not how] == [
        name for name in holds if "video" in name
    ]


def test_memory_growth_is_measured_after_the_warm_up() -> None:
    flat = Memory(0, [(at, 100.0 + 50 * (at < 10)) for at in range(100)])
    assert flat.growth(100) == 0
    assert Memory(0, [(at, 100.0 + at) for at in range(100)]).growth(100) > 0.2
