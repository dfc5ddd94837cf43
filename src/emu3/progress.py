"""Progress bars on stderr, with rate and time left, for whatever takes longer than two seconds.

Work that proves quick shows nothing, and where stderr is no terminal there is nothing at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

PATIENCE = 2.0  # seconds a person waits without wondering
MEMORY = 300  # seconds that a rate looks back: batches finish far apart


class Rate(ProgressColumn):
    """Steps a second, once there is something to measure."""

    def render(self, task: Task) -> Text:
        """The text of the column."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def count_progress(
    title: str, total: int, *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Give a function to call with how many of `total` steps are newly done."""
    if quiet:
        yield lambda count: None
        return
    with _shown_if_slow(MofNCompleteColumn(), Rate()) as (bar, look):
        task = bar.add_task(title, total=total)

        def advance(count: int) -> None:
            bar.advance(task, count)
            look()

        yield advance


@contextmanager
def transfer_progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the bytes done so far, and those in all."""
    if quiet:
        yield lambda done, total: None
        return
    with _shown_if_slow(DownloadColumn(), TransferSpeedColumn()) as (bar, look):
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            look()

        yield report


@contextmanager
def _shown_if_slow(*columns: ProgressColumn) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """A bar that is not on the screen yet, and what to call after each step, which may start it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=MEMORY,
    )
    began, shown = time.monotonic(), False

    def look() -> None:
        nonlocal shown
        slow = time.monotonic() - began > PATIENCE
        if not shown and slow and console.is_terminal and not console.is_dumb_terminal:
            bar.start()
            shown = True

    try:
        yield bar, look
    finally:
        if shown:
            bar.stop()
