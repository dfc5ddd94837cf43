"""`emu3 serve` in a process of its own, Chromium through Playwright, and actions on the page."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib import request

ROOT = Path(__file__).resolve().parents[3]
BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 90  # seconds to wait for a change of the page; the machine may be busy
DESKTOP, PHONE = (1180, 800), (390, 844)  # (width, height) of the window


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSER_NAMES)), None)


@contextmanager
def running_process(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `emu3 serve --studio`; yield its URL and its process. It must log no traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "emu3", "serve", "--studio", "--port", str(port)]
        command += ["--jobs", str(Path(folder) / "jobs"), *map(str, options)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        log = Path(folder) / "log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(command, env=environment, stderr=stderr, text=True) as process,
        ):
            url = f"http://127.0.0.1:{port}"
            try:
                wait_for_server(f"{url}/ready", process, log)
                yield url, process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            assert "Traceback" not in log.read_text(), log.read_text()


def wait_for_server(url: str, process: subprocess.Popen[str], log: Path) -> None:
    """Wait until a URL answers. Raises AssertionError with the log if the process ends."""
    end = time.monotonic() + 2 * TIMEOUT
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


@contextmanager
def browser_context(size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Any]:
    """Yield a Playwright browser context with a window of `size`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        executable = find_chromium()
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(1000 * TIMEOUT)
        yield context
        browser.close()


def open_tab(page: Any, name: str) -> None:
    """Switch to a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


def field(page: Any, selector: str) -> Any:
    """Return the input element of a component."""
    return page.locator(f"{selector} input, {selector} textarea").first


def generate_image(page: Any, prompt: str, seed: int | None = None) -> None:
    """Fill in the form of the Image tab, submit it, and wait for the image."""
    open_tab(page, "Image")
    field(page, "#image-prompt").fill(prompt)
    field(page, "#image-seed").fill("" if seed is None else str(seed))
    page.evaluate("document.querySelector('#image-status .status')?.remove()")  # a previous result
    page.locator("#image-generate").click()
    page.wait_for_selector("#image-status :text('image of'), #image-status :text('images of')")


def send_question(page: Any, question: str, path: Path | None = None) -> None:
    """Upload an image if given, ask a question, and wait for the end of the answer."""
    open_tab(page, "Chat")
    if path is not None:
        page.set_input_files("#chat-upload input", path)
        page.wait_for_selector("#chat-upload .upload.has-file")
    answers = page.locator("#chat-conversation .message.assistant:not(.waiting)")
    count = answers.count()
    field(page, "#chat-question").fill(question)
    page.locator("#chat-send").click()
    answers.nth(count).wait_for()
    page.wait_for_selector("#chat-cancel[disabled], #chat-cancel button[disabled]")


def replace_code(page: Any, path: Path, index: int, code: int) -> None:
    """Upload an image to the Tokens tab, select a position, and replace its code."""
    open_tab(page, "Tokens")
    page.set_input_files("#tokens-upload input", path)
    page.wait_for_selector("#tokens-grid .codes")
    page.locator(f"#tokens-grid [data-index='{index}']").click()
    page.wait_for_selector(f"#tokens-grid .selected[data-index='{index}']")
    field(page, "#tokens-code").fill(str(code))
    page.locator("#tokens-replace").click()
    page.wait_for_selector("#tokens-status :text('1 code changed')")
