"""A drawing as it is seen in the terminal: a bar with its speed, and the picture growing below, or
the newest frame of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emu3.inference.video import VideoProgress

PREVIEW_PAUSE = 0.3  # seconds at least from one preview to the next
PREVIEW_SHARE = 0.2  # of the time at most goes into previews
PREVIEW_COLUMNS = 64
BAR_LINES = 3  # the bar, and a prompt line above and below the picture


class CodesRate(ProgressColumn):
    """Codes a second, once there is something to measure."""

    def render(self, task: Task) -> Text:
        """The text of the column."""
        codes, seconds = task.fields.get("codes", 0), task.elapsed
        return Text(f"{codes / seconds:.0f} codes/s" if codes and seconds else "")


class Preview:
    """The first picture as far as it is drawn, in half blocks; empty until a row is finished."""

    def __init__(self, console: Console, decode: Callable[[Tensor], Image.Image | Tensor]) -> None:
        self.console, self.decode = console, decode
        self.picture: Text = Text()
        self.next = 0.0

    def grow(self, codes: Tensor, height: int, last: bool) -> None:
        """Show codes [r, w], r > 0, of a picture `height` codes high.

        Skipped where the one before is too recent, unless this is the last.
        """
        start = monotonic()
        if start < self.next and not last:
            return
        decoded = self.decode(codes)
        columns = preview_columns(codes.shape[1], height, self.console.width, self.console.height)
        self.picture = half_blocks(decoded, columns)  # type: ignore[arg-type]  # codes are [h, w]
        cost = monotonic() - start
        self.next = monotonic() + max(PREVIEW_PAUSE, cost / PREVIEW_SHARE)


@contextmanager
def image_progress(
    console: Console | None,
    count: int,
    decode: Callable[[Tensor], Image.Image | Tensor] | None,
) -> Iterator[Callable[[int, int, Sequence[Tensor]], None] | None]:
    """Give what `Emu3.image` takes as `on_row`; without `decode` there is a bar only.

    It is for `count` pictures of one height, in as many calls of `image` as it takes.
    """
    if console is None:
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), CodesRate())
    bar = Progress(TextColumn("drawing"), *columns, TimeRemainingColumn(), console=console)
    task = bar.add_task("drawing", total=None)
    preview = None if decode is None else Preview(console, decode)

    def shown() -> Group:
        return Group(bar) if preview is None else Group(bar, preview.picture)

    rows_before = codes_before = 0

    def on_row(done: int, total: int, codes: Sequence[Tensor]) -> None:
        nonlocal rows_before, codes_before
        height, drawn = total // len(codes), sum(each.numel() for each in codes)
        rows, all_codes = rows_before + done, codes_before + drawn
        bar.update(task, completed=rows, total=count * height, codes=all_codes)
        if preview is not None and len(codes[0]):
            preview.grow(codes[0], height, done == total)
        if done == total:
            rows_before, codes_before = rows, all_codes

    with Live(get_renderable=shown, console=console, refresh_per_second=8):
        yield on_row


@contextmanager
def video_progress(
    console: Console | None, *, preview: bool
) -> Iterator[Callable[[VideoProgress], None]]:
    """Give what `Emu3.video` takes as `on_group`; without `preview` there is a bar only."""
    if console is None:
        yield lambda news: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("groups of frames"))
    bar = Progress(TextColumn("drawing"), *columns, TimeRemainingColumn(), console=console)
    task, newest = bar.add_task("drawing", total=None), Text()

    def on_group(news: VideoProgress) -> None:
        nonlocal newest
        bar.update(task, completed=news.done, total=news.total)
        if preview:
            frame = news.frames[-1]
            columns = preview_columns(frame.shape[1], frame.shape[0], console.width, console.height)
            newest = half_blocks(to_image(frame), columns)

    with Live(get_renderable=lambda: Group(bar, newest), console=console, refresh_per_second=8):
        yield on_group


def to_image(frame: Tensor) -> Image.Image:
    """A frame [H, W, 3] uint8 as a picture."""
    from PIL import Image

    return Image.fromarray(frame.numpy())


def preview_columns(width: int, height: int, columns: int, lines: int) -> int:
    """How many columns a picture of this shape may take on a screen of columns × lines."""
    # A column is one pixel wide, a line two high; what is left of the lines bounds the width.
    tall = 2 * max(lines - BAR_LINES, 1) * width // height
    return max(1, min(columns, PREVIEW_COLUMNS, tall))


def half_blocks(picture: Image.Image, columns: int) -> Text:
    """A picture in so many columns, two pixels to a character."""
    lines = max(1, round(picture.height * columns / picture.width))
    small = picture.convert("RGB").resize((columns, lines))
    pixels = small.load()
    assert pixels is not None
    text = Text(no_wrap=True)
    for y in range(0, lines, 2):
        for x in range(columns):
            below = Color.from_rgb(*pixels[x, y + 1]) if y + 1 < lines else None  # type: ignore[misc]
            above = Color.from_rgb(*pixels[x, y])  # type: ignore[misc]
            text.append("▀", Style.from_color(above, below))
        text.append("\n")
    return text
