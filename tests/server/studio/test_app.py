"""The page as a program uses it: the events behind its buttons, through Gradio's client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from emu3.cli.app import build
from emu3.inference.async_engine import AsyncEngine
from tests.server.studio.conftest import API_KEY

Server = tuple[str, AsyncEngine]
IMAGE_FORM = ["x", "", "1:1", 3.0, 1.0, 9, "7", 2]


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    client = pytest.importorskip("gradio_client").Client(server[0], verbose=False)
    yield client
    client.close()


def test_generated_images_are_in_the_history_and_their_settings_reusable(page: Any) -> None:
    images, status = page.predict(*IMAGE_FORM, api_name="/generate_image")
    assert "seed 7" in images
    assert "seed 8" in images
    assert "2 images" in status
    thumbnails, details, *_ = page.predict(api_name="/history")
    assert thumbnails.count("data-index") == 2
    assert "top k" in details
    form = page.predict(api_name="/reuse_settings")
    assert form[:3] == ("x", "", "1:1")
    assert {"8", "7"} & set(form)


def test_sessions_have_separate_histories(page: Any, server: Server) -> None:
    page.predict(*IMAGE_FORM, api_name="/generate_image")
    other = pytest.importorskip("gradio_client").Client(server[0], verbose=False)
    thumbnails, *_ = other.predict(api_name="/history")
    other.close()
    assert "data-index" not in thumbnails


def test_image_updates_are_streamed(page: Any) -> None:
    job = page.submit(*IMAGE_FORM, api_name="/generate_image")
    job.result(timeout=60)
    assert len(job.outputs()) > 4


def test_chat(page: Any, photo: str) -> None:
    conversation, *_ = page.predict(photo, "what?", api_name="/chat")
    assert "what?" in conversation
    assert "message assistant" in conversation


def test_encode_replace_undo(page: Any, photo: str) -> None:
    grid, _, _, code, status = page.predict(photo, api_name="/encode")
    assert "5×4 codes" in status
    new = (int(code) + 1) % 64
    changed, _, _, selected, status = page.predict(new, api_name="/replace")
    assert int(selected) == new
    assert "1 code changed" in status
    *_, status = page.predict(64, api_name="/replace")
    assert "0 to 63" in status
    undone, *_ = page.predict(api_name="/undo")
    assert undone == grid
    assert changed != grid


def test_clients_authenticate_with_a_bearer_token(server_with_key: Server) -> None:
    client = pytest.importorskip("gradio_client").Client
    with pytest.raises(Exception, match="credentials"):
        client(server_with_key[0], verbose=False)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    authenticated = client(server_with_key[0], headers=headers, verbose=False)
    _, status = authenticated.predict(*IMAGE_FORM, api_name="/generate_image")
    authenticated.close()
    assert "2 images" in status


def test_missing_gradio_is_an_error_with_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(build(), ["serve", "--model", "/nowhere", "--studio"])
    assert result.exit_code == 2
    assert 'emu3[studio]"' in result.output


def test_missing_gradio_is_reported_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API is served without the studio, so the missing model is the error."""
    pytest.importorskip("uvicorn")
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(build(), ["serve", "--model", "/nowhere"])
    assert "emu3[studio]" in result.output
    assert "/nowhere" in result.output
    without = CliRunner().invoke(build(), ["serve", "--model", "/nowhere", "--no-studio"])
    assert "studio" not in without.output
