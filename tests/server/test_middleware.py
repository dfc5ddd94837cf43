"""Request ids, the access log, metrics, health checks and authentication."""

from __future__ import annotations

import json
import logging

import pytest

from emu3.errors import InputError
from emu3.server.settings import Settings

from .conftest import KEY, Server, serving
from .test_validation import IMAGES, call


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_checks_need_no_key(server: Server, path: str) -> None:
    status, _, body = call(server, "GET", path, headers={"Authorization": ""})
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_without_an_api_key_every_request_is_accepted() -> None:
    with serving(Settings(model="tiny")) as open_server:
        assert call(open_server, "GET", "/v1/models", headers={"Authorization": ""})[0] == 200


def test_plain_request_ids_are_kept(server: Server) -> None:
    for name, kept in (("abc-1.2_3", True), ("x" * 65, False), ('a"b c', False), ("", False)):
        _, headers, _ = call(server, "GET", "/nowhere", headers={"X-Request-Id": name})
        assert (headers["x-request-id"] == name) is kept
        assert headers["x-request-id"]


def test_the_access_log_has_no_prompts_and_no_keys(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "emu3.server"):
        body = b'{"prompt": "my secret wish"}'
        status, headers, _ = call(server, "POST", f"{IMAGES}?token=hush", body)
        call(server, "GET", "/v1/models/hush")
    assert status == 200
    lines = [json.loads(each.message) for each in caplog.records if each.name == "emu3.server"]
    (line,) = (each for each in lines if each["id"] == headers["x-request-id"])
    assert (line["method"], line["route"], line["status"]) == ("POST", IMAGES, 200)
    for word in ("secret", "hush", KEY):
        assert word not in caplog.text


def read_metrics(server: Server) -> dict[str, float]:
    text = call(server, "GET", "/metrics")[2].decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_metrics(server: Server) -> None:
    before = read_metrics(server)
    call(server, "POST", IMAGES, b'{"prompt": "x"}')
    call(server, "GET", "/surprise")
    after = read_metrics(server)

    def increase(name: str) -> float:
        return after[name] - before.get(name, 0)

    for name in (
        'emu3_requests_total{kind="image",outcome="completed"}',
        'emu3_request_latency_seconds_count{kind="image"}',
        'emu3_time_to_first_output_seconds_count{kind="image"}',
        'emu3_queue_time_seconds_count{kind="image"}',
        f'emu3_http_requests_total{{route="{IMAGES}",status="200"}}',
        f'emu3_http_request_seconds_count{{route="{IMAGES}"}}',
    ):
        assert increase(name) == 1
    assert increase("emu3_generated_codes_total") == 16
    assert after["emu3_waiting_requests"] == 0
    assert after['emu3_running_requests{kind="image"}'] == 0
    assert 0 == after["emu3_kv_cache_tokens"] < after["emu3_max_kv_cache_tokens"]
    assert not any("surprise" in name for name in after)


def test_every_metric_has_a_description(server: Server) -> None:
    lines = call(server, "GET", "/metrics")[2].decode().splitlines()
    described = {
        line.split()[2] for line in lines if line.startswith("# HELP ") and line.split()[3:]
    }
    assert described == {line.split()[2] for line in lines if line.startswith("# TYPE ")}


def test_invalid_settings() -> None:
    forever = {"keep_videos": float("inf")}
    for change in ({"max_n": 0}, {"timeout": -1.0}, {"api_key": " "}, {"model": ""}, forever):
        with pytest.raises(InputError):
            Settings(**change)  # type: ignore[arg-type]
    assert "hush" not in repr(Settings(api_key="hush"))
