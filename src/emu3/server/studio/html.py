"""What pages show, as HTML; every text from outside is escaped here and nowhere else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape

from PIL import Image

SMALL = 256  # pixels; what is smaller is shown in crisp pixels, not blurred


def data_url(picture: Image.Image) -> str:
    """A picture on its way, small enough to be sent with every row."""
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def note(text: str, kind: str = "") -> str:
    """One line of what goes on; `kind` is "problem" where something is wrong."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="note {kind}" role="{role}">{escape(text)}</p>' if text else ""


def image(url: str, alt: str, size: tuple[int, int], attributes: str = "") -> str:
    """A picture of `size` (width, height)."""
    crisp = "crisp" if max(size) <= SMALL else ""
    return f'<img class="{crisp}" src="{escape(url)}" alt="{escape(alt)}" {attributes}>'


def frame(inner: str, size: tuple[int, int], done: float = 1.0) -> str:
    """A box of a picture's shape, also before there is one; a bar at its foot for what is done."""
    bar = f'<i class="bar" style="width:{100 * done:.0f}%"></i>' if done < 1 else ""
    shape = f"aspect-ratio:{size[0]}/{size[1]}"
    return f'<div class="frame" style="{shape}">{inner}{bar}</div>'


def figure(inner: str, caption: str, links: str = "") -> str:
    """A picture with a line under it."""
    return f"<figure>{inner}<figcaption><span>{escape(caption)}</span>{links}</figcaption></figure>"


def download(url: str, name: str, text: str = "Download") -> str:
    """A link to a file that is saved under a name."""
    return f'<a class="link" href="{escape(url)}" download="{escape(name)}">{escape(text)}</a>'


def grid(cells: Iterable[str], kind: str = "") -> str:
    """Pictures beside each other, as many as there is room for."""
    inner = "".join(cells)
    return f'<div class="pictures {kind}">{inner}</div>' if inner else ""


def empty(text: str) -> str:
    """What is said where there is nothing yet."""
    return f'<div class="empty">{escape(text)}</div>'


def table(rows: Mapping[str, object]) -> str:
    """Names and values."""
    lines = (
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value)) or '–'}</td></tr>"
        for name, value in rows.items()
    )
    return f'<table class="facts">{"".join(lines)}</table>'


def clip(url: str, alt: str, size: tuple[int, int]) -> str:
    """A clip of `size` (width, height) that plays again and again."""
    crisp = "crisp" if max(size) <= SMALL else ""
    return (
        f'<video class="{crisp}" src="{escape(url)}" aria-label="{escape(alt)}" '
        "autoplay loop muted playsinline controls></video>"
    )


def bubble(kind: str, text: str, url: str = "", moves: bool = False) -> str:
    """Something said, with what was shown."""
    shown = ""
    if url:
        shown = (
            clip(url, "the clip", (0, 0))
            if moves
            else f'<img src="{escape(url)}" alt="the picture">'
        )
    return f'<div class="bubble {kind}">{shown}<p>{escape(text)}</p></div>'
