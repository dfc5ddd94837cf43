"""A person's path through every tab, in a real Chromium, against a real server with nano."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib import request

import pytest
from PIL import Image

from emu3.api import Emu3
from emu3.checkpoints.generation_defaults import TASKS
from emu3.testing import tiny_checkpoint
from tests.server.studio import browser
from tests.server.studio.browser import PHONE, ask, change_a_code, draw, field, opened, process, tab

pytest.importorskip("playwright")
pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(browser.chromium() is None, reason="there is no Chromium here"),
]

APPLE = "a red apple, noto style"


@pytest.fixture(scope="module")
def nano() -> Iterator[str]:
    with process() as (url, _):
        yield url


@pytest.fixture
def page(nano: str) -> Iterator[Any]:
    """An open page that has asked nobody else and logged no error when the test is over."""
    asked, errors = list[str](), list[str]()
    with opened() as context:
        made = context.new_page()
        made.on("request", lambda each: asked.append(each.url))
        made.on("pageerror", lambda each: errors.append(str(each)))
        made.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        made.goto(nano)
        yield made
    assert not errors
    assert {url for url in asked if not url.startswith((nano, "data:", "blob:"))} == set()


@pytest.fixture
def apple(tmp_path: Path) -> Path:
    path = tmp_path / "apple.png"
    Emu3.from_pretrained("nano").image(APPLE, seed=0).save(path)
    return path


def numbers(url: str) -> dict[str, int]:
    with request.urlopen(f"{url}/metrics", timeout=30) as answer:
        found = re.findall(r"^emu3_engine_(\w+) (\d+)$", answer.read().decode(), re.MULTILINE)
    return {name: int(value) for name, value in found}


def settled(url: str) -> dict[str, int]:
    """The numbers once nobody is at work."""
    while (now := numbers(url))["pictures"] or now["waiting"]:
        time.sleep(0.05)
    return now


def test_draw_save_and_again(page: Any, apple: Path, tmp_path: Path) -> None:
    page.get_by_role("button", name=APPLE).click()
    assert page.locator("#draw-prompt textarea").input_value() == APPLE
    draw(page, APPLE, seed=0)
    with page.expect_download() as saving:
        page.locator("#draw-canvas .link").click()
    saved = tmp_path / saving.value.suggested_filename
    saving.value.save_as(saved)
    assert saved.name == "a-red-apple-noto-style-0.png"
    with Image.open(saved) as there, Image.open(apple) as alone:
        assert there.tobytes() == alone.tobytes()
        assert json.loads(there.text["emu3"]) == json.loads(alone.text["emu3"])  # type: ignore[attr-defined]
    draw(page, "a red heart, noto style")
    tab(page, "Gallery")
    page.locator("#gallery-wall [data-pick='1']").click()
    page.wait_for_selector(f"#gallery-card :text('{APPLE}')")
    page.locator("#gallery-again").click()
    page.wait_for_selector("#draw-go:visible")
    page.wait_for_function(
        "wanted => document.querySelector('#draw-prompt textarea').value === wanted", arg=APPLE
    )
    assert field(page, "#draw-seed").input_value() == "0"


def test_cancel_frees_the_places(page: Any, nano: str) -> None:
    before = settled(nano)["cancelled_total"]
    page.locator("#draw-prompt textarea").fill(APPLE)
    page.get_by_label("number input for How many").fill("4")
    page.locator("#draw-go").click()
    page.wait_for_selector("#draw-note :text('row')")
    page.locator("#draw-stop").click()
    page.wait_for_selector("#draw-note :text('cancelled')")
    assert settled(nano)["cancelled_total"] > before


def test_closing_the_page_frees_the_places(page: Any, nano: str) -> None:
    before = settled(nano)["cancelled_total"]
    page.locator("#draw-prompt textarea").fill(APPLE)
    page.get_by_label("number input for How many").fill("4")
    page.locator("#draw-go").click()
    page.wait_for_selector("#draw-note :text('row')")
    page.close()
    assert settled(nano)["cancelled_total"] > before


def test_ask_twice_about_a_picture(page: Any, apple: Path) -> None:
    ask(page, "What is this?", apple)
    ask(page, "Which style is it?")
    said = page.locator("#look-talk .bubble").all_inner_texts()
    assert [text.strip() for text in said[:3]] == [
        "What is this?",
        "a red apple",
        "Which style is it?",
    ]
    page.locator("#look-anew").click()
    page.wait_for_selector("#look-talk .empty")


def test_a_code_is_replaced_and_put_back(page: Any, apple: Path) -> None:
    change_a_code(page, apple, 27, 5)
    page.wait_for_selector("#tokens-grid .other[data-pick='27'] >> text='5'")
    assert page.locator("#tokens-pictures figure").count() == 3
    page.locator("#tokens-undo").click()
    page.wait_for_selector("#tokens-note :text('8×8 codes')")


def test_what_the_model_cannot_do_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_checkpoint().save(folder)
    with process("--model", folder) as (url, _), opened() as context:
        page = context.new_page()
        page.goto(url)
        tab(page, "Move")
        page.wait_for_selector(".empty:text('not made to draw videos')")


def test_a_mistake_is_told_in_a_line(page: Any) -> None:
    page.locator("#draw-go").click()
    page.wait_for_selector("#draw-note :text('say what to draw')")


def test_a_phone_needs_no_scrolling_sideways(nano: str, apple: Path) -> None:
    with opened(PHONE, has_touch=True, is_mobile=True, color_scheme="dark") as context:
        page = context.new_page()
        page.goto(nano)
        draw(page, APPLE, seed=0)
        ask(page, "What is this?", apple)
        change_a_code(page, apple, 27, 5)
        for name in ("Draw", "Look", "Move", "Tokens", "Gallery"):
            tab(page, name)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE[0], name


def test_with_a_key_a_person_says_it_once(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_checkpoint().save(folder)
    with process("--model", folder, "--api-key", "a-key") as (url, started), opened() as context:
        page = context.new_page()
        page.goto(url)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Open").click()
        page.wait_for_selector(":text('not the key')")
        page.get_by_label("API key").fill("a-key")
        page.get_by_role("button", name="Open").click()
        draw(page, "x", seed=0)
        started.send_signal(signal.SIGTERM)  # an open page does not hold it up
        assert started.wait(30) == 0


def test_a_clip_grows_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("av")
    folder, toy = tmp_path / "tiny", tiny_checkpoint()
    replace(toy, defaults=replace(toy.defaults, tasks=TASKS)).save(folder)
    with process("--model", folder) as (url, _), opened() as context:
        page = context.new_page()
        page.goto(url)
        tab(page, "Move")
        page.locator("#move-prompt textarea").fill("x")
        field(page, "#move-seed").fill("0")
        page.locator("#move-go").click()
        page.wait_for_selector("#move-note :text('16 frames, 8 a second')")
        page.wait_for_function("document.querySelector('video').videoWidth > 0")
        page.locator("#move-more").click()
        page.wait_for_selector("#move-note :text('32 frames, 8 a second')")
        tab(page, "Gallery")
        page.wait_for_selector("#gallery-card video")
