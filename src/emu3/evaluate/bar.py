"""A progress bar with how fast the work goes and how long is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps a second, once there is something to measure."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def rate_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with how many of `total` steps are newly done.

    The bar goes to stderr, and where that is no terminal there is none.
    """
    console = Console(stderr=True)
    name = TextColumn("{task.description}")
    columns = (name, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    # Batches finish far apart: a short memory would lose the rate between them.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=300
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
