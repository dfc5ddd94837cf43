"""Graceful stop on SIGTERM and Ctrl-C: the current step is finished and saved first.

Cluster schedulers send SIGTERM before they take a machine away.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def catch_stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM or Ctrl-C was received.

    The first signal interrupts nothing; a second Ctrl-C raises KeyboardInterrupt. Python delivers
    signals to the main thread only: in any other thread the function always returns False.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is complete")
        received.set()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield received.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
