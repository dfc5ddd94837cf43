"""Progress bars on stderr, with rate and remaining time, for work longer than two seconds.

Shorter work shows nothing, and nothing is shown if stderr is not a terminal.
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

SHOW_AFTER = 2.0  # seconds before a bar appears
RATE_WINDOW = 300  # seconds over which the rate is averaged: batches may be minutes apart


class Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Text of the column; empty before the first step."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def count_progress(
    title: str, total: int, *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of steps done since the last call."""
    if quiet:
        yield lambda count: None
        return
    with _shown_if_slow(MofNCompleteColumn(), Rate()) as (bar, show_if_slow):
        task = bar.add_task(title, total=total)

        def advance(count: int) -> None:
            bar.advance(task, count)
            show_if_slow()

        yield advance


@contextmanager
def transfer_progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the bytes done so far and the total."""
    if quiet:
        yield lambda done, total: None
        return
    with _shown_if_slow(DownloadColumn(), TransferSpeedColumn()) as (bar, show_if_slow):
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            show_if_slow()

        yield report


@contextmanager
def _shown_if_slow(*columns: ProgressColumn) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """A hidden progress bar, and a function that shows it once `SHOW_AFTER` has passed."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=RATE_WINDOW,
    )
    start, shown = time.monotonic(), False

    def show_if_slow() -> None:
        nonlocal shown
        slow = time.monotonic() - start > SHOW_AFTER
        if not shown and slow and console.is_terminal and not console.is_dumb_terminal:
            bar.start()
            shown = True

    try:
        yield bar, show_if_slow
    finally:
        if shown:
            bar.stop()
