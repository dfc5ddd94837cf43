"""A server as a process of its own, a real Chromium, and what a person does with them."""

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
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 90  # for anything that a person waits for; the machine may be busy
DESKTOP, PHONE = (1180, 800), (390, 844)


def chromium() -> str | None:
    """The path of a Chromium that is installed here."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def process(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`emu3 serve` with its studio, until the block is left."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "emu3", "serve", "--studio", "--port", str(port)]
        command += ["--jobs", str(Path(folder) / "jobs"), *map(str, options)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        log = Path(folder) / "log"
        with (
            log.open("w") as said,
            subprocess.Popen(command, env=environment, stderr=said, text=True) as started,
        ):
            url = f"http://127.0.0.1:{port}"
            try:
                wait_for(f"{url}/ready", started, log)
                yield url, started
            finally:
                started.send_signal(signal.SIGTERM)
                try:
                    started.wait(20)
                except subprocess.TimeoutExpired:
                    started.kill()
            assert "Traceback" not in log.read_text(), log.read_text()


def wait_for(url: str, started: subprocess.Popen[str], log: Path) -> None:
    """Until a server answers."""
    end = time.monotonic() + 2 * SECONDS
    while time.monotonic() < end:
        assert started.poll() is None, log.read_text()
        try:
            request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


@contextmanager
def opened(size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Any]:
    """A context of a browser; its pages may ask `asked` and log errors to `errors`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(1000 * SECONDS)
        yield context
        browser.close()


def tab(page: Any, name: str) -> None:
    """Go to a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


def draw(page: Any, prompt: str, seed: int | None = None) -> None:
    """Fill in the form, draw, and wait for the picture."""
    tab(page, "Draw")
    page.locator("#draw-prompt textarea").fill(prompt)
    field(page, "#draw-seed").fill("" if seed is None else str(seed))
    page.evaluate("document.querySelector('#draw-note .note')?.remove()")  # of the one before
    page.locator("#draw-go").click()
    page.wait_for_selector("#draw-note :text('picture of'), #draw-note :text('pictures of')")


def field(page: Any, name: str) -> Any:
    """The field of a component, of one line or more."""
    return page.locator(f"{name} input, {name} textarea").first


def ask(page: Any, question: str, path: Path | None = None) -> None:
    """Drop a picture perhaps, ask, and wait for the answer."""
    tab(page, "Look")
    if path is not None:
        page.set_input_files("#look-drop input", path)
        page.wait_for_selector("#look-drop .drop.full")
    answers = page.locator("#look-talk .bubble.said:not(.waiting)").count()
    field(page, "#look-question").fill(question)
    page.locator("#look-go").click()
    page.locator("#look-talk .bubble.said:not(.waiting)").nth(answers).wait_for()
    page.wait_for_selector("#look-stop[disabled], #look-stop button[disabled]")


def change_a_code(page: Any, path: Path, place: int, code: int) -> None:
    """Drop a picture, choose a place, and put another code there."""
    tab(page, "Tokens")
    page.set_input_files("#tokens-drop input", path)
    page.wait_for_selector("#tokens-grid .codes")
    page.locator(f"#tokens-grid [data-pick='{place}']").click()
    page.wait_for_selector(f"#tokens-grid .chosen[data-pick='{place}']")
    field(page, "#tokens-code").fill(str(code))
    page.locator("#tokens-go").click()
    page.wait_for_selector("#tokens-note :text('1 code changed')")
