"""Ids, logs, numbers, and how the server says that it is there."""

from __future__ import annotations

import json
import logging

import pytest

from emu3.errors import InputError
from emu3.server.settings import Settings

from .conftest import KEY, Server, serving
from .test_refusals import DRAW, call


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_anybody_may_ask_whether_it_is_there(server: Server, path: str) -> None:
    status, _, body = call(server, "GET", path, headers={"Authorization": ""})
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_without_a_key_everybody_is_let_in() -> None:
    with serving(Settings(model="tiny")) as free:
        assert call(free, "GET", "/v1/models", headers={"Authorization": ""})[0] == 200


def test_a_request_keeps_its_id_if_it_is_a_plain_one(server: Server) -> None:
    for name, kept in (("abc-1.2_3", True), ("x" * 65, False), ('a"b c', False), ("", False)):
        _, headers, _ = call(server, "GET", "/nowhere", headers={"X-Request-Id": name})
        assert (headers["x-request-id"] == name) is kept
        assert headers["x-request-id"]


def test_the_log_has_no_prompts_and_no_keys(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "emu3.server"):
        body = b'{"prompt": "my secret wish"}'
        status, headers, _ = call(server, "POST", f"{DRAW}?token=hush", body)
        call(server, "GET", "/v1/models/hush")
    assert status == 200
    lines = [json.loads(each.message) for each in caplog.records if each.name == "emu3.server"]
    (line,) = (each for each in lines if each["id"] == headers["x-request-id"])
    assert (line["method"], line["route"], line["status"]) == ("POST", DRAW, 200)
    for word in ("secret", "hush", KEY):
        assert word not in caplog.text


def test_numbers(server: Server) -> None:
    def read() -> dict[str, float]:
        text = call(server, "GET", "/metrics")[2].decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    before = read()
    call(server, "POST", DRAW, b'{"prompt": "x"}')
    call(server, "GET", "/surprise")
    after = read()
    assert (
        after["emu3_engine_finished_images_total"] - before["emu3_engine_finished_images_total"]
        == 1
    )
    assert (
        after["emu3_engine_generated_codes_total"] - before["emu3_engine_generated_codes_total"]
        == 16
    )
    assert after["emu3_engine_waiting"] == 0
    name = f'emu3_http_requests_total{{route="{DRAW}",status="200"}}'
    assert after[name] - before.get(name, 0) == 1
    assert not any("surprise" in each for each in after)


def test_settings_that_let_nothing_through_are_refused() -> None:
    forever = {"keep_videos": float("inf")}
    for change in ({"max_n": 0}, {"timeout": -1.0}, {"api_key": " "}, {"model": ""}, forever):
        with pytest.raises(InputError):
            Settings(**change)  # type: ignore[arg-type]
    assert "hush" not in repr(Settings(api_key="hush"))
