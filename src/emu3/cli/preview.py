"""Progress bars of image and video generation, with a preview in half-block characters."""

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

    from emu3.inference.events import VideoFrames

PREVIEW_INTERVAL = 0.3  # minimum seconds between previews
PREVIEW_SHARE = 0.2  # maximum share of the time spent on decoding previews
PREVIEW_COLUMNS = 64  # maximum width in characters
RESERVED_LINES = 3  # the bar, and a shell prompt above and below the preview


class CodesRate(ProgressColumn):
    """Visual codes per second."""

    def render(self, task: Task) -> Text:
        """Text of the column; empty before the first code."""
        codes, seconds = task.fields.get("codes", 0), task.elapsed
        return Text(f"{codes / seconds:.0f} codes/s" if codes and seconds else "")


class Preview:
    """The first image of a batch as far as it is generated; empty before the first row."""

    def __init__(self, console: Console, decode: Callable[[Tensor], Image.Image | Tensor]) -> None:
        self.console, self.decode = console, decode
        self.text: Text = Text()
        self.next_update = 0.0

    def update(self, codes: Tensor, height: int, last: bool) -> None:
        """Show the finished rows, codes [r, w] with r > 0, of an image `height` codes high.

        Skipped if the previous update was too recent, except for the last one.
        """
        start = monotonic()
        if start < self.next_update and not last:
            return
        decoded = self.decode(codes)
        columns = preview_columns(codes.shape[1], height, self.console.width, self.console.height)
        self.text = half_blocks(decoded, columns)  # type: ignore[arg-type]  # codes are [h, w]
        cost = monotonic() - start
        self.next_update = monotonic() + max(PREVIEW_INTERVAL, cost / PREVIEW_SHARE)


@contextmanager
def image_progress(
    console: Console | None,
    count: int,
    decode: Callable[[Tensor], Image.Image | Tensor] | None,
) -> Iterator[Callable[[int, int, Sequence[Tensor]], None] | None]:
    """Progress bar for `count` images of one height, generated in any number of batches.

    Yields the `on_row` callback for `Emu3.image`, or None without a console. `decode` turns codes
    [h, w] into an image for the preview; without it there is no preview.
    """
    if console is None:
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), CodesRate())
    bar = Progress(TextColumn("generating"), *columns, TimeRemainingColumn(), console=console)
    task = bar.add_task("generating", total=None)
    preview = None if decode is None else Preview(console, decode)

    def renderable() -> Group:
        return Group(bar) if preview is None else Group(bar, preview.text)

    previous_rows = previous_codes = 0  # of finished batches

    def on_row(done: int, total: int, codes: Sequence[Tensor]) -> None:
        nonlocal previous_rows, previous_codes
        height = total // len(codes)
        rows = previous_rows + done
        num_codes = previous_codes + sum(each.numel() for each in codes)
        bar.update(task, completed=rows, total=count * height, codes=num_codes)
        if preview is not None and len(codes[0]):
            preview.update(codes[0], height, done == total)
        if done == total:
            previous_rows, previous_codes = rows, num_codes

    with Live(get_renderable=renderable, console=console, refresh_per_second=8):
        yield on_row


@contextmanager
def video_progress(
    console: Console | None, *, preview: bool
) -> Iterator[Callable[[VideoFrames], None]]:
    """Progress bar for one video; `preview` adds the newest frame.

    Yields the `on_group` callback for `Emu3.video`.
    """
    if console is None:
        yield lambda progress: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("groups of frames"))
    bar = Progress(TextColumn("generating"), *columns, TimeRemainingColumn(), console=console)
    task, newest = bar.add_task("generating", total=None), Text()

    def on_group(progress: VideoFrames) -> None:
        nonlocal newest
        bar.update(task, completed=progress.done, total=progress.total)
        if preview:
            frame = progress.frames[-1]
            columns = preview_columns(frame.shape[1], frame.shape[0], console.width, console.height)
            newest = half_blocks(_to_image(frame), columns)

    with Live(get_renderable=lambda: Group(bar, newest), console=console, refresh_per_second=8):
        yield on_group


def _to_image(frame: Tensor) -> Image.Image:
    """A frame [H, W, 3] uint8 as an image."""
    from PIL import Image

    return Image.fromarray(frame.numpy())


def preview_columns(width: int, height: int, columns: int, lines: int) -> int:
    """Columns for the preview of a width x height image on a terminal of columns x lines."""
    # A character is one pixel wide and two pixels high, so the free lines limit the columns.
    by_height = 2 * max(lines - RESERVED_LINES, 1) * width // height
    return max(1, min(columns, PREVIEW_COLUMNS, by_height))


def half_blocks(image: Image.Image, columns: int) -> Text:
    """An image as text of `columns` characters per line, two pixels per character."""
    rows = max(1, round(image.height * columns / image.width))
    small = image.convert("RGB").resize((columns, rows))
    pixels = small.load()
    assert pixels is not None
    text = Text(no_wrap=True)
    for y in range(0, rows, 2):
        for x in range(columns):
            lower = Color.from_rgb(*pixels[x, y + 1]) if y + 1 < rows else None  # type: ignore[misc]
            upper = Color.from_rgb(*pixels[x, y])  # type: ignore[misc]
            text.append("▀", Style.from_color(upper, lower))
        text.append("\n")
    return text
