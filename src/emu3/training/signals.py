"""Being asked to stop: the step is finished and saved first.

SIGTERM is how schedulers of clusters say that a machine is needed elsewhere.
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
    """Give what says whether SIGTERM or Ctrl-C has come.

    Neither interrupts anything the first time; Ctrl-C raises KeyboardInterrupt the second time.
    Python lets only the main thread listen; in any other one the answer is always no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is whole")
        asked.set()

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
