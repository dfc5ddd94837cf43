"""Every tab of the page in Chromium, against `emu3 serve` in a process of its own."""

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
from tests.server.studio.browser import (
    PHONE,
    browser_context,
    field,
    find_chromium,
    generate_image,
    open_tab,
    replace_code,
    running_process,
    send_question,
)

pytest.importorskip("playwright")
pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed"),
]

APPLE = "a red apple, noto style"


@pytest.fixture(scope="module")
def nano() -> Iterator[str]:
    """The URL of a server with the demo model."""
    with running_process() as (url, _):
        yield url


@pytest.fixture
def page(nano: str) -> Iterator[Any]:
    """An open page; it must log no error and request nothing from other hosts."""
    requested, errors = list[str](), list[str]()
    with browser_context() as context:
        page = context.new_page()
        page.on("request", lambda each: requested.append(each.url))
        page.on("pageerror", lambda each: errors.append(str(each)))
        page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        page.goto(nano)
        yield page
    assert not errors
    assert {url for url in requested if not url.startswith((nano, "data:", "blob:"))} == set()


@pytest.fixture
def apple(tmp_path: Path) -> Path:
    path = tmp_path / "apple.png"
    Emu3.from_pretrained("nano").image(APPLE, seed=0).save(path)
    return path


def test_generate_download_and_reuse_settings(page: Any, apple: Path, tmp_path: Path) -> None:
    page.get_by_role("button", name=APPLE).click()
    assert field(page, "#image-prompt").input_value() == APPLE
    generate_image(page, APPLE, seed=0)
    with page.expect_download() as download:
        page.locator("#image-output .link").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "a-red-apple-noto-style-0.png"
    with Image.open(saved) as actual, Image.open(apple) as expected:
        assert actual.tobytes() == expected.tobytes()
        metadata = [json.loads(each.text["emu3"]) for each in (actual, expected)]  # type: ignore[attr-defined]
        assert metadata[0] == metadata[1]
    generate_image(page, "a red heart, noto style")
    open_tab(page, "History")
    page.locator("#history-thumbnails [data-index='1']").click()
    page.wait_for_selector(f"#history-details :text('{APPLE}')")
    page.locator("#history-reuse").click()
    page.wait_for_selector("#image-generate:visible")
    page.wait_for_function(
        "prompt => document.querySelector('#image-prompt textarea').value === prompt", arg=APPLE
    )
    assert field(page, "#image-seed").input_value() == "0"


def start_four_images(page: Any) -> None:
    """Submit a form for four images, and wait until they are being generated."""
    field(page, "#image-prompt").fill(APPLE)
    page.get_by_label("number input for Number of images").fill("4")
    page.locator("#image-generate").click()
    page.wait_for_selector("#image-status :text('row')")


def test_cancel_button_frees_the_engine(page: Any, nano: str) -> None:
    before = cancelled_requests(nano)
    start_four_images(page)
    page.locator("#image-cancel").click()
    page.wait_for_selector("#image-status :text('cancelled')")
    assert cancelled_requests(nano) > before


def test_closing_the_page_frees_the_engine(page: Any, nano: str) -> None:
    before = cancelled_requests(nano)
    start_four_images(page)
    page.close()
    assert cancelled_requests(nano) > before


def test_follow_up_question(page: Any, apple: Path) -> None:
    send_question(page, "What is this?", apple)
    send_question(page, "Which style is it?")
    messages = page.locator("#chat-conversation .message").all_inner_texts()
    assert [text.strip() for text in messages[:3]] == [
        "What is this?",
        "a red apple",
        "Which style is it?",
    ]
    page.locator("#chat-clear").click()
    page.wait_for_selector("#chat-conversation .placeholder")


def test_replace_code_and_undo(page: Any, apple: Path) -> None:
    replace_code(page, apple, 27, 5)
    page.wait_for_selector("#tokens-grid .changed[data-index='27'] >> text='5'")
    assert page.locator("#tokens-images figure").count() == 3
    page.locator("#tokens-undo").click()
    page.wait_for_selector("#tokens-status :text('8×8 codes')")


def test_unsupported_task_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_checkpoint().save(folder)
    with running_process("--model", folder) as (url, _), browser_context() as context:
        page = context.new_page()
        page.goto(url)
        open_tab(page, "Video")
        page.wait_for_selector(".placeholder:text('not trained to generate videos')")


def test_invalid_form_is_reported(page: Any) -> None:
    page.locator("#image-generate").click()
    page.wait_for_selector("#image-status .status.error:text('prompt')")


def test_no_tab_scrolls_sideways_on_a_phone(nano: str, apple: Path) -> None:
    with browser_context(PHONE, has_touch=True, is_mobile=True, color_scheme="dark") as context:
        page = context.new_page()
        page.goto(nano)
        generate_image(page, APPLE, seed=0)
        send_question(page, "What is this?", apple)
        replace_code(page, apple, 27, 5)
        for name in ("Image", "Chat", "Video", "Tokens", "History"):
            open_tab(page, name)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE[0], name


def test_login_and_shutdown_with_an_open_page(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_checkpoint().save(folder)
    options = ("--model", folder, "--api-key", "a-key")
    with running_process(*options) as (url, process), browser_context() as context:
        page = context.new_page()
        page.goto(url)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Open").click()
        page.wait_for_selector(":text('Wrong API key')")
        page.get_by_label("API key").fill("a-key")
        page.get_by_role("button", name="Open").click()
        generate_image(page, "x", seed=0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_generate_and_extend_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    folder, checkpoint = tmp_path / "tiny", tiny_checkpoint()
    replace(checkpoint, defaults=replace(checkpoint.defaults, tasks=TASKS)).save(folder)
    with running_process("--model", folder) as (url, _), browser_context() as context:
        page = context.new_page()
        page.goto(url)
        open_tab(page, "Video")
        field(page, "#video-prompt").fill("x")
        field(page, "#video-seed").fill("0")
        page.locator("#video-generate").click()
        page.wait_for_selector("#video-status :text('16 frames at 8 fps')")
        page.wait_for_function("document.querySelector('video').videoWidth > 0")
        page.locator("#video-extend").click()
        page.wait_for_selector("#video-status :text('32 frames at 8 fps')")
        open_tab(page, "History")
        page.wait_for_selector("#history-details video")


def cancelled_requests(url: str) -> float:
    """Return the number of cancelled requests once the engine is idle."""
    while sum_of_metrics(url, r"emu3_(engine_)?(waiting|running)"):
        time.sleep(0.05)
    return sum_of_metrics(url, r"emu3_.*cancelled")


def sum_of_metrics(url: str, pattern: str) -> float:
    """Return the sum of all samples whose name and labels begin with `pattern`."""
    with request.urlopen(f"{url}/metrics", timeout=30) as answer:
        samples = re.findall(r"^([^#]\S*) (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(float(value) for name, value in samples if re.match(pattern, name))
