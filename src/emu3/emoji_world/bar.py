"""A progress bar for what is usually quick: it shows only once the work has proved slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

_PATIENCE = 2.0  # seconds a person waits without wondering


@contextmanager
def slow_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Give a function to call after each of `total` steps; on a terminal a bar may appear.

    The bar goes to stderr, so that it never mixes with what a command prints.
    """
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task(title, total=total)
    began, shown = time.monotonic(), False

    def advance() -> None:
        nonlocal shown
        bar.advance(task)
        if not shown and console.is_terminal and time.monotonic() - began > _PATIENCE:
            bar.start()
            shown = True

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
