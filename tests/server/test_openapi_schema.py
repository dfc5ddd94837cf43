"""The API's page of itself is true: of all that it says may be sent, nothing breaks the server."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emu3.server.errors import APIError
from emu3.server.fields import Fields
from emu3.server.openapi import Sketch, body_of
from emu3.server.settings import Settings

from .conftest import KEY, Server, moving_checkpoint, serving

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.checks")
conforms = pytest.importorskip("schemathesis.specs.openapi.checks")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = int(os.environ.get("EMU3_SCHEMA_EXAMPLES", "4"))  # of each operation; by hand, many
CHECKS = (
    checks.not_a_server_error,
    conforms.status_code_conformance,
    conforms.content_type_conformance,
    conforms.response_schema_conformance,
)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all endpoints, with little to do for those that get through."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    settings = Settings(
        model="tiny", api_key=KEY, max_pixels=16 * 16, max_tokens=8, max_frames=8, jobs=folder
    )
    with serving(settings, moving_checkpoint(), max_waiting=32, max_running=8) as server:
        yield server


def get(server: Server, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    read = answer.status, answer.headers["content-type"], answer.read().decode()
    connection.close()
    return read


@pytest.fixture(scope="module")
def described(moving: Server) -> dict[str, Any]:
    status, kind, text = get(moving, "/openapi.json")
    assert (status, kind) == (200, "application/json")
    return dict(json.loads(text))


@pytest.fixture(scope="module")
def api(moving: Server, described: dict[str, Any]) -> Any:
    api = schemathesis.openapi.from_dict(described)
    api.config.update(base_url=moving.url)
    return api


def test_nothing_breaks_and_nothing_is_unsaid(api: Any) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    tried = 0
    for each in api.get_all_operations():

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES < 10,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=each.ok().as_strategy())
        def holds(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

        holds()
    print(f"{tried} requests")
    assert tried


def test_every_route_is_described_and_none_else(server: Server, described: dict[str, Any]) -> None:

    from emu3.server.app import create_app

    said = {
        (path, method.upper()) for path, methods in described["paths"].items() for method in methods
    }
    made = create_app(server.engine, server.settings)
    there = {
        (re.sub(r":path}", "}", route.path), method)
        for route in made.routes
        for method in route.methods - {"HEAD"}
    }
    assert said == there


def test_a_bound_is_said_where_it_is_checked() -> None:
    def read(fields: Fields) -> None:
        fields.text("words", 5)
        fields.integer("count", 1, 4)
        fields.number("share", 0, 0.5)
        fields.flag("flag")
        fields.choice("kind", ("a", "b"), "a")
        fields.ignore({"idle": (1, "x")})
        fields.done()

    said = body_of(read, {"words": "x"}, {})
    assert said["required"] == ["words"]
    assert not said["additionalProperties"]
    fields = said["properties"]
    assert fields["words"] == {"type": "string", "maxLength": 5}
    assert fields["count"] == {"type": ["integer", "null"], "minimum": 1, "maximum": 4}
    assert fields["share"]["maximum"] == 0.5
    assert fields["flag"]["type"] == ["boolean", "null"]
    assert fields["kind"]["enum"] == ["a", "b", None]
    assert fields["idle"]["enum"] == [1, "x", None]
    with pytest.raises(APIError):
        read(Sketch({"count": 5}))


def test_the_page_follows_the_settings(moving: Server) -> None:
    from emu3.server.openapi import document

    few = document(moving.engine, Settings(max_n=2, max_prompt=7, max_tokens=9, max_frames=1))
    content = few["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    fields = content["application/json"]["schema"]["properties"]
    assert (fields["n"]["maximum"], fields["prompt"]["maxLength"]) == (2, 7)
    content = few["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["max_tokens"]["maximum"] == 9


def test_the_page_for_people_asks_nobody_else(moving: Server, described: dict[str, Any]) -> None:
    status, kind, page = get(moving, "/docs")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert all(path in page for path in described["paths"])
    assert "<script" not in page
    assert "//" not in re.sub(r"<code>.*?</code>", "", page)
