"""The page as a program drives it: the same functions that its buttons call, over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from emu3.cli.app import build
from emu3.inference.async_engine import AsyncEngine
from tests.server.studio.conftest import KEY

Server = tuple[str, AsyncEngine]
WISH = ["x", "", "1:1", 3.0, 1.0, 9, "7", 2]


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    client = pytest.importorskip("gradio_client").Client(server[0], verbose=False)
    yield client
    client.close()


def test_draw_gallery_again(page: Any) -> None:
    canvas, line = page.predict(*WISH, api_name="/draw")
    assert "seed 7" in canvas
    assert "seed 8" in canvas
    assert "2 pictures" in line
    wall, card, *_ = page.predict(api_name="/gallery")
    assert wall.count("data-pick") == 2
    assert "top k" in card
    back = page.predict(api_name="/again")
    assert back[:3] == ("x", "", "1:1")
    assert {"8", "7"} & set(back)


def test_sessions_do_not_see_each_other(page: Any, server: Server) -> None:
    page.predict(*WISH, api_name="/draw")
    other = pytest.importorskip("gradio_client").Client(server[0], verbose=False)
    wall, *_ = other.predict(api_name="/gallery")
    other.close()
    assert "data-pick" not in wall


def test_pictures_stream(page: Any) -> None:
    job = page.submit(*WISH, api_name="/draw")
    job.result(timeout=60)
    assert len(job.outputs()) > 4


def test_ask(page: Any, photo: str) -> None:
    said, *_ = page.predict(photo, "what?", api_name="/ask")
    assert "what?" in said
    assert "bubble said" in said


def test_encode_replace_undo(page: Any, photo: str) -> None:
    grid, _, _, code, line = page.predict(photo, api_name="/encode")
    assert "5×4 codes" in line
    new = (int(code) + 1) % 64
    changed, _, _, now, line = page.predict(new, api_name="/replace")
    assert int(now) == new
    assert "1 code changed" in line
    *_, line = page.predict(64, api_name="/replace")
    assert "0 to 63" in line
    again, *_ = page.predict(api_name="/undo")
    assert (again == grid, changed == grid) == (True, False)


def test_with_a_key_a_program_sends_it_and_gets_nowhere_without(locked: Server) -> None:
    client = pytest.importorskip("gradio_client").Client
    with pytest.raises(Exception, match="credentials"):
        client(locked[0], verbose=False)
    let_in = client(locked[0], headers={"Authorization": f"Bearer {KEY}"}, verbose=False)
    _, line = let_in.predict(*WISH, api_name="/draw")
    let_in.close()
    assert "2 pictures" in line


def test_who_asks_for_the_studio_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = CliRunner().invoke(build(), ["serve", "--model", "/nowhere", "--studio"])
    assert done.exit_code == 2
    assert 'emu3[studio]"' in done.output


def test_without_it_the_api_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that is not there is the first thing to be missed, and is not asked for before."""
    pytest.importorskip("uvicorn")
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = CliRunner().invoke(build(), ["serve", "--model", "/nowhere"])
    assert "the API is served all the same" in done.output
    assert "/nowhere" in done.output
    quiet = CliRunner().invoke(build(), ["serve", "--model", "/nowhere", "--no-studio"])
    assert "studio" not in quiet.output
