"""The OpenAPI document describes the API as it behaves."""

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

from emu3.server.settings import Settings

from .conftest import KEY, Server, serving, video_checkpoint

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.checks")
conforms = pytest.importorskip("schemathesis.specs.openapi.checks")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = int(os.environ.get("EMU3_SCHEMA_EXAMPLES", "4"))  # requests per operation
METHODS = ("get", "post", "delete")
CHECKS = (
    checks.not_a_server_error,
    conforms.status_code_conformance,
    conforms.content_type_conformance,
    conforms.response_schema_conformance,
)


@pytest.fixture(scope="module")
def video_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all routes and low limits, so that valid requests are fast."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    settings = Settings(
        model="tiny", api_key=KEY, max_pixels=16 * 16, max_tokens=8, max_frames=8, jobs=folder
    )
    with serving(settings, video_checkpoint(), max_waiting=32, max_running=8) as server:
        yield server


def get(server: Server, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    read = answer.status, answer.headers["content-type"], answer.read().decode()
    connection.close()
    return read


@pytest.fixture(scope="module")
def document(video_server: Server) -> dict[str, Any]:
    status, kind, text = get(video_server, "/openapi.json")
    assert (status, kind) == (200, "application/json")
    return dict(json.loads(text))


@pytest.fixture(scope="module")
def api(video_server: Server, document: dict[str, Any]) -> Any:
    api = schemathesis.openapi.from_dict(document)
    api.config.update(base_url=video_server.url)
    return api


@pytest.mark.slow
def test_generated_requests_get_described_responses(api: Any) -> None:
    """Whatever the document allows to send gets a described response, and never a 5xx."""
    headers = {"Authorization": f"Bearer {KEY}"}
    for operation in api.get_all_operations():

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES < 10,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

        check()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    from emu3.server.routes import chat, images, system, videos

    described = {
        (path, method.upper()) for path, each in document["paths"].items() for method in each
    }
    assert described == {
        (route.path.replace(":path}", "}"), method)
        for module in (chat, images, system, videos)
        for route in module.router.routes
        for method in route.methods
    }
    assert all("422" not in each["responses"] for each in find_values(document["paths"], METHODS))


def test_limits_of_the_settings_are_in_the_document() -> None:
    from fastapi import FastAPI

    from emu3.server.openapi import openapi_document
    from emu3.server.routes import chat, images

    app = FastAPI()
    for module in (chat, images):
        app.include_router(module.router)
    document = openapi_document(app, Settings(max_n=2, max_prompt=7, max_tokens=9))
    schemas = document["components"]["schemas"]
    image = schemas["ImageGenerationRequest"]
    assert image["properties"]["n"]["maximum"] == 2
    assert image["properties"]["prompt"]["maxLength"] == 7
    assert image["required"] == ["prompt"]
    assert not image["additionalProperties"]
    max_tokens = schemas["ChatCompletionRequest"]["properties"]["max_tokens"]
    assert max_tokens["anyOf"][0]["maximum"] == 9
    limits = list(find_values(document, ("maximum", "maxLength")))
    assert all(isinstance(limit, int | float) for limit in limits)


def find_values(node: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys:
                yield value
            yield from find_values(value, keys)
    elif isinstance(node, list):
        for value in node:
            yield from find_values(value, keys)


def test_the_docs_page_loads_nothing_from_other_hosts(
    video_server: Server, document: dict[str, Any]
) -> None:
    status, kind, page = get(video_server, "/docs")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert all(path in page for path in document["paths"])
    assert "<script" not in page
    assert "//" not in re.sub(r"<code>.*?</code>", "", page)
