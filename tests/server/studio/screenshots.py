"""Create the screenshots of docs/how-to/studio.md: `python -m tests.server.studio.screenshots`.

Needs the extras `studio` and `dev` and a Chromium.
"""

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
    browser_context,
    field,
    generate_image,
    open_tab,
    replace_code,
    running_process,
    send_question,
)

FOLDER = ROOT / "docs" / "studio"
APPLE = "a red apple, noto style"
WEBP_QUALITY = 82


def main() -> None:
    """Take screenshots of all tabs in a desktop window and on a phone in dark mode."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        apple = Path(folder) / "apple.png"
        Emu3.from_pretrained("nano").image(APPLE, seed=0).save(apple)
        phone = {"color_scheme": "dark", "is_mobile": True, "has_touch": True}
        with running_process() as (url, _):
            with browser_context(DESKTOP) as context:
                take_screenshots(context.new_page(), url, apple, "desktop")
            with browser_context(PHONE, **phone) as context:
                take_screenshots(context.new_page(), url, apple, "phone")


def take_screenshots(page: Any, url: str, apple: Path, device: str) -> None:
    """Use every tab and save a screenshot of each."""
    page.goto(url)
    for seed, prompt in enumerate(("a sunflower, twemoji style", "a tiger, fluent style")):
        generate_image(page, prompt, seed=seed)
    generate_image(page, APPLE, seed=0)
    save_screenshot(page, f"draw-{device}")
    send_question(page, "What is this?", apple)
    send_question(page, "Which style is it?")
    save_screenshot(page, f"look-{device}")
    replace_code(page, apple, 27, 1068)
    save_screenshot(page, f"tokens-{device}")
    open_tab(page, "History")
    page.wait_for_selector("#history-details table.settings")
    save_screenshot(page, f"gallery-{device}")
    open_tab(page, "Video")
    field(page, "#video-prompt").fill("a red apple moving to the right, noto style")
    field(page, "#video-seed").fill("0")
    page.locator("#video-generate").click()
    page.wait_for_selector("#video-status :text('fps in')")
    page.wait_for_function("document.querySelector('video').videoWidth > 0")
    save_screenshot(page, f"move-{device}")


def save_screenshot(page: Any, name: str) -> None:
    """Save the whole page as WebP."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # for transitions to end
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as screenshot:
        path = FOLDER / f"{name}.webp"
        screenshot.convert("RGB").save(path, quality=WEBP_QUALITY, method=6)


if __name__ == "__main__":
    main()
