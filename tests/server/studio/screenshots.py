"""The pictures of docs/studio.md: `python -m tests.server.studio.screenshots`, with nano and Chromium."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from emu3.api import Emu3
from tests.server.studio.browser import (
    DESKTOP,
    PHONE,
    ROOT,
    ask,
    change_a_code,
    draw,
    opened,
    process,
    tab,
)

FOLDER = ROOT / "docs" / "studio"
APPLE = "a red apple, noto style"
QUALITY = 82


def main() -> None:
    """Walk through the tabs, at a desk and on a phone at night."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        apple = Path(folder) / "apple.png"
        Emu3.from_pretrained("nano").image(APPLE, seed=0).save(apple)
        with process() as (url, _):
            with opened(DESKTOP) as context:
                walk(context.new_page(), url, apple, "desktop")
            with opened(PHONE, color_scheme="dark", is_mobile=True, has_touch=True) as context:
                walk(context.new_page(), url, apple, "phone")


def walk(page: Any, url: str, apple: Path, name: str) -> None:
    """A picture of every tab."""
    page.goto(url)
    for seed, prompt in enumerate(("a sunflower, twemoji style", "a tiger, fluent style")):
        draw(page, prompt, seed=seed)
    draw(page, APPLE, seed=0)
    shoot(page, f"draw-{name}")
    ask(page, "What is this?", apple)
    ask(page, "Which style is it?")
    shoot(page, f"look-{name}")
    change_a_code(page, apple, 27, 1068)
    shoot(page, f"tokens-{name}")
    tab(page, "Gallery")
    page.wait_for_selector("#gallery-card .facts")
    shoot(page, f"gallery-{name}")
    tab(page, "Move")
    film(page)
    shoot(page, f"move-{name}")


def film(page: Any) -> None:
    """A short clip."""
    page.locator("#move-prompt textarea").fill("a red apple moving to the right, noto style")
    page.locator("#move-seed input, #move-seed textarea").first.fill("0")
    page.locator("#move-go").click()
    page.wait_for_selector("#move-note :text('a second, in')")
    page.wait_for_function("document.querySelector('video').videoWidth > 0")


def shoot(page: Any, name: str) -> None:
    """The whole page as a small file."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # moving things have come to rest
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as picture:
        picture.convert("RGB").save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
