"""HTML fragments of the page.

Text from users, models and files is escaped here and nowhere else: callers pass plain text.
Sizes are (width, height) in pixels, None where they are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

PIXELATED_UP_TO = 256  # pixels; smaller images are scaled up without smoothing


def status_line(text: str, *, error: bool = False) -> str:
    """A line about the state of a request; empty for an empty text."""
    if not text:
        return ""
    kind, role = ("status error", "alert") if error else ("status", "status")
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>'


def placeholder(text: str) -> str:
    """A box that explains what will appear in its place."""
    return f'<div class="placeholder">{escape(text)}</div>'


def image_tag(url: str, alt: str, size: tuple[int, int] | None = None, attributes: str = "") -> str:
    """An image; `attributes` is inserted as it is."""
    kind = _scaling_class(size)
    return f'<img class="{kind}" src="{escape(url)}" alt="{escape(alt)}" {attributes}>'


def video_tag(url: str, label: str, size: tuple[int, int] | None = None) -> str:
    """A muted video that plays in a loop."""
    return (
        f'<video class="{_scaling_class(size)}" src="{escape(url)}" aria-label="{escape(label)}" '
        "autoplay loop muted playsinline controls></video>"
    )


def _scaling_class(size: tuple[int, int] | None) -> str:
    return "pixelated" if size is not None and max(size) <= PIXELATED_UP_TO else ""


def frame(content: str, size: tuple[int, int], progress: float = 1.0) -> str:
    """A box of a fixed aspect ratio, with a progress bar while `progress` is below 1."""
    bar = f'<i class="progress-bar" style="width:{100 * progress:.0f}%"></i>'
    shape = f"aspect-ratio:{size[0]}/{size[1]}"
    return f'<div class="frame" style="{shape}">{content}{bar if progress < 1 else ""}</div>'


def figure(content: str, caption: str, links: str = "") -> str:
    """Content with a caption and links below it."""
    text = f"<figcaption><span>{escape(caption)}</span>{links}</figcaption>"
    return f"<figure>{content}{text}</figure>"


def download_link(url: str, file_name: str) -> str:
    """A link that saves a file under `file_name`."""
    return f'<a class="link" href="{escape(url)}" download="{escape(file_name)}">Download</a>'


def image_grid(cells: Iterable[str], kind: str = "") -> str:
    """Cells in columns; `kind` is a CSS class that sets their number. Empty without cells."""
    content = "".join(cells)
    return f'<div class="image-grid {kind}">{content}</div>' if content else ""


def settings_table(settings: Mapping[str, object]) -> str:
    """A table of names and values."""
    rows = (
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value)) or '–'}</td></tr>"
        for name, value in settings.items()
    )
    return f'<table class="settings">{"".join(rows)}</table>'


def chat_message(kind: str, text: str, attachment: str = "") -> str:
    """A message of a conversation; `kind` is its CSS class, `attachment` HTML above the text."""
    return f'<div class="message {kind}">{attachment}<p>{escape(text)}</p></div>'


def format_duration(seconds: float) -> str:
    """Seconds with one decimal below 10, whole seconds below 90, and minutes above."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
